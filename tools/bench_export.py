"""Time and peak memory of exporting a shape with random weights to ONNX and to int8, in a fresh process.

    python tools/bench_export.py [--family encoder|resnet] [--layers 12] [--depth 50] [--json]

The encoder is BERT-base. Peak memory is VmHWM of the process that exports: interpreter, torch, weights and graph.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = "--child"


def peak_bytes() -> int:
    """Return the largest resident size that this process has had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def child(shape: str) -> None:
    """Export the shape of a JSON text once and print the figures as one JSON line."""
    from shapes import random_model, tensors, this_processor

    from rmtkd_edge.config.recipe import Export
    from rmtkd_edge.export.stage import saturates
    from rmtkd_edge.families.base import QuantiseOptions, family_of, spec_from_dict

    model = random_model(spec_from_dict(json.loads(shape)))
    family, before = family_of(model), peak_bytes()
    calibration = [tensors(model.spec.example_inputs(32, 64, 0))]
    with tempfile.TemporaryDirectory() as folder:
        path, int8 = Path(folder) / "model.onnx", Path(folder) / "model_quantized.onnx"
        start = time.perf_counter()
        family.export(model, path, Export(), {})
        middle, exported = time.perf_counter(), peak_bytes()
        family.quantise(path, int8, calibration, QuantiseOptions(saturates(None, this_processor().sets), 1))
        facts = {
            "export_s": middle - start,
            "quantise_s": time.perf_counter() - middle,
            "peak_before_bytes": before,
            "peak_export_bytes": exported,
            "peak_quantise_bytes": peak_bytes(),
            "fp32_bytes": path.stat().st_size,
            "int8_bytes": int8.stat().st_size,
        }
    print(json.dumps(facts))


def main() -> None:
    """Run the child and show what it measured."""
    from shapes import encoder_spec, resnet_spec

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("encoder", "resnet"), default="encoder")
    parser.add_argument("--layers", type=int, default=12, help="of the encoder")
    parser.add_argument("--depth", type=int, default=50, help="of the ResNet")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    spec = resnet_spec(args.depth) if args.family == "resnet" else encoder_spec(num_hidden_layers=args.layers)
    command = [sys.executable, __file__, CHILD, json.dumps(spec.to_dict())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    if args.json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name:22s} {value / 1e6:10.1f} MB" if name.endswith("_bytes") else f"{name:22s} {value:10.1f} s")


if __name__ == "__main__":
    child(sys.argv[2]) if CHILD in sys.argv else main()
