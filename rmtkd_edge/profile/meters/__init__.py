"""Energy meters, one a file, found by their name; see base.py."""
