"""Other programs that open an exported folder: their environments, their answers, and how far those differ from ours."""
