"""The RMT-KD paper's table and figures, from any set of finished compress runs."""
