"""fieldmark: find, measure and remove what a vision-language model spuriously relies on."""

__version__ = "0.1.0"
