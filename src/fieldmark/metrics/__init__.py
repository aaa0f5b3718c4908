"""Pure functions on numpy arrays: groups, intervals, invariance."""
