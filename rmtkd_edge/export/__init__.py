"""From a trained encoder to the ONNX files that ship: fold, emit, audit, quantise, verify, bundle."""
