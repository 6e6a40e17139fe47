"""Measure ONNX models with onnxruntime, here: python3 runner.py [plan.json results.json] [--json]

Without names the files are those next to it. It needs Python 3.9+, onnxruntime and numpy, and what a bundle has next to
it: the folder `measuring` (the program), `limits.py`, and `meters`, without which energy is null. The results are
written after every round, and the same command continues where an interrupted one stopped. Exit codes: 0 measured, 2
refused (stderr and `error` in the results say why).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for a Python that leaves it out (-P)
from measuring.command import main

if __name__ == "__main__":
    sys.exit(main())
