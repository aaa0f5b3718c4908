"""Fakes with outputs that can be worked out by hand; public, for tests and docs."""

from fieldmark.testing.fake_encoder import FakeEncoder, FakeTower

__all__ = ["FakeEncoder", "FakeTower"]
