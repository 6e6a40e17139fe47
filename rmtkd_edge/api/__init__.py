"""One verb a file: what the command line and a notebook call."""
