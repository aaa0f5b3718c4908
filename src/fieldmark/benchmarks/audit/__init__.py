"""Recorded runs of `fieldmark audit`: how far a model leans on what it should not."""
