"""What a model spuriously relies on: regions, their clusters, and how each cluster misleads."""
