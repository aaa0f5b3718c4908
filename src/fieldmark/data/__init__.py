"""Image tables, masks, foregrounds, backgrounds, compositing and leakage."""
