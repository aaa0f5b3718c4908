"""Images with a planted spurious feature whose correlation with a class is known."""
