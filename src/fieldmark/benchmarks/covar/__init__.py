"""Encoders on a COVAR: what each single change of an image costs, and what drove the errors."""
