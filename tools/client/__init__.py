"""Other programs that open an exported folder: their environments, how they run it, and how far they differ from us."""
