"""Errors, names, seeds, atomic writes, fetching and records; no torch."""
