"""From a trained model to the ONNX files that ship: fold, write, audit, quantise, verify, bundle."""
