"""Which onnxruntimes read which exported files, and compute the same, each version in an environment of its own.

    python tools/runtimes.py --versions 1.16.3,1.18.1,1.20.1 --environments DIR [--python python3.11] [--json FILE]

A small encoder and a small ResNet with random weights are exported in both graphs and every precision. Every version
runs every file on the same batch, of texts with padded rows among them; its outputs are compared with those of the
onnxruntime that is installed here, as a share of the largest output. Environments that are there are used again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHILD = "--child"
REFUSED = "refused"


def child(folder: Path) -> None:
    """Run every file of a folder and print its largest difference, or that it was refused, as one JSON line."""
    import numpy as np
    import onnxruntime

    found: dict[str, float | str] = {}
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    for path in sorted(folder.glob("*.onnx")):
        wanted = np.load(path.with_suffix(".npy"))
        feed = dict(np.load(folder / f"{path.name.partition('-')[0]}.npz"))
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            outputs = session.run(None, feed)[0]
        except Exception:  # its own classes, which differ from version to version
            found[path.stem] = REFUSED
        else:
            found[path.stem] = float(np.abs(outputs - wanted).max() / np.abs(wanted).max())
    print(json.dumps(found))


def write_files(folder: Path) -> None:
    """Write FAMILY-GRAPH-PRECISION.onnx with its outputs here (.npy), and the batch of a family (FAMILY.npz)."""
    import numpy as np
    from shapes import encoder_spec, random_model, resnet_spec, tensors

    from rmtkd_edge.config.recipe import Export
    from rmtkd_edge.export.half import to_half
    from rmtkd_edge.export.portable import make_portable
    from rmtkd_edge.families.base import QuantiseOptions, family_of
    from rmtkd_edge.sessions import open_session, run_session

    small = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    for name, spec in (("text", encoder_spec(**small)), ("image", resnet_spec(18))):
        model, sequences = random_model(spec), spec.max_length is not None
        batch = spec.padded_inputs(4, 24, 1) if sequences else spec.example_inputs(4, None, 1)
        np.savez(folder / f"{name}.npz", **batch)  # type: ignore[arg-type]
        calibration = [tensors(spec.example_inputs(16, 24 if sequences else None, 2))]
        for graph in ("fast", "portable"):
            files = {p: folder / f"{name}-{graph}-{p}.onnx" for p in ("fp32", "fp16", "int8")}
            family_of(model).export(model, files["fp32"], Export(graph=graph), {})
            to_half(files["fp32"], files["fp16"])
            family_of(model).quantise(files["fp32"], files["int8"], calibration, QuantiseOptions(True, 1))
            for path in files.values():
                if graph == "portable":
                    make_portable(path)
                np.save(path.with_suffix(".npy"), run_session(open_session(path, threads=1), batch))


def environment(folder: Path, version: str, python: str) -> Path:
    """Return the Python of an environment with one version of onnxruntime, which is made where it is not there."""
    found = folder / version / "bin/python"
    if not found.exists():
        subprocess.run([python, "-m", "venv", str(folder / version)], check=True)
        packages = [f"onnxruntime=={version}", "numpy<2"]  # versions before 1.19 were built against numpy 1
        subprocess.run([str(found), "-m", "pip", "install", "-q", *packages], check=True, stdout=sys.stderr)
    return found


def main() -> None:
    """Show a table: files by version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", required=True, help="of onnxruntime, with commas")
    parser.add_argument("--environments", type=Path, required=True, help="folder of the environments")
    parser.add_argument("--python", default=sys.executable, help="that they are made with")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for version in args.versions.split(","):
            python = environment(args.environments, version, args.python)
            done = subprocess.run(
                [str(python), __file__, CHILD, folder], check=True, stdout=subprocess.PIPE, text=True, env={}
            )
            rows[version] = json.loads(done.stdout)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("| file |", " | ".join(rows), "|")
    print("|---" * (len(rows) + 1) + "|")
    for name in next(iter(rows.values())):
        cells = (found[name] if found[name] == REFUSED else f"{found[name]:.0e}" for found in rows.values())
        print(f"| {name.replace('-', ' ')} |", " | ".join(cells), "|")


if __name__ == "__main__":
    child(Path(sys.argv[2])) if CHILD in sys.argv else main()
