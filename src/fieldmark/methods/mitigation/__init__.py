"""Train away what a model spuriously relies on: the region-aware loss of RaVL and its rivals."""
