"""Runs that attribute scores to parts of images, and measure how far that is to be believed."""
