"""Errors, names, seeds, atomic writes, fetching and records: the layer under everything, no torch."""
