"""Fakes with outputs that can be worked out by hand; public, for tests and docs."""
