"""What measures on a device; a bundle carries it next to runner.py. Python 3.9, onnxruntime and numpy are enough."""
