"""One file a suite: a function that returns its runs."""
