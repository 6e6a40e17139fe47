"""Which settings of an onnxruntime session a file is fastest with on a device."""
