"""Time and peak memory of exporting a BERT-base shape (random weights) to ONNX and to int8, in a fresh process.

    python tools/bench_export.py [--json]

Peak memory is VmHWM of the process that exports: interpreter, torch, weights and graph together.
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


def base_encoder():
    """Return a folded encoder of BERT-base's shape with random weights, 109.5 M parameters."""
    import torch

    from rmtkd_edge.families.encoder.module import Encoder
    from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec

    torch.manual_seed(0)
    layer = LayerSpec(12, 64, 64, 3072, 64**-0.5)
    encoder = Encoder(EncoderSpec("bert", 30522, 512, 2, 768, (layer,) * 12, 768, ("negative", "positive"))).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return encoder


def peak_bytes() -> int:
    """Return the largest resident size that this process has had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def child() -> None:
    """Export once and print the figures as one JSON line."""
    from rmtkd_edge.families.encoder.graph import input_names
    from rmtkd_edge.families.encoder.quantise import quantise_onnx
    from rmtkd_edge.families.encoder.to_onnx import export_onnx, sample_inputs

    encoder = base_encoder()
    before = peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path, int8 = Path(folder) / "model.onnx", Path(folder) / "model_quantized.onnx"
        start = time.perf_counter()
        export_onnx(encoder, path)
        middle, exported = time.perf_counter(), peak_bytes()
        quantise_onnx(path, int8, calibration=[sample_inputs(input_names(encoder.spec), 32, 64)])
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    command = [sys.executable, __file__, CHILD]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    if args.json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name:22s} {value / 1e6:10.1f} MB" if name.endswith("_bytes") else f"{name:22s} {value:10.1f} s")


if __name__ == "__main__":
    child() if CHILD in sys.argv else main()
