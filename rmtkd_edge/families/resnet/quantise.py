"""Which operators of a ResNet run in int8; families/static_int8.py writes the file."""

QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "MaxPool")
