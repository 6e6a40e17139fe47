"""Where the time of an exported file goes, operator by operator, and what this machine would need at its best."""
