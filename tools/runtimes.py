"""Which onnxruntimes read which exported files, and compute the same, each version in an environment of its own.

    python tools/runtimes.py [--versions 1.16.3,1.18.1] [--environments DIR] [--python PYTHON] [--json FILE] [--keep]

A small encoder and a small ResNet with random weights are exported in both graphs and every precision. Every version
runs every file on the same batch, of texts with padded rows among them; its outputs are compared with those of the
onnxruntime that is installed here, as a share of the largest output. Environments that are there are used again; those
of the default folder (RMTKD_RUNTIMES names another) are used by the tests too (tests/test_runtimes.py). With --keep the
outcome becomes the package's own table, which every export quotes in rmtkd.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHILD = "--child"
REFUSED = "refused"
WHOLE = "installed"  # a file of an environment whose installation ended
ENVIRONMENTS = Path(os.environ.get("RMTKD_RUNTIMES") or Path.home() / ".cache/rmtkd-edge/runtimes")
TABLE = Path(__file__).resolve().parents[1] / "rmtkd_edge/export/runtimes.json"
# The last release of every minor version on PyPI that has wheels for Python 3.11.
VERSIONS = (
    *("1.16.3", "1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4", "1.25.1", "1.26.0"),
    *("1.27.0", "1.28.0", "1.29.0", "1.30.0", "1.31.1", "1.32.0"),
)
Outcome = dict[str, Any]  # by file: its largest difference, or REFUSED


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
    for name, spec in (("encoder", encoder_spec(**small)), ("resnet", resnet_spec(18))):
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
    if not is_whole(folder, version):
        subprocess.run([python, "-m", "venv", "--clear", str(folder / version)], check=True)
        packages = [f"onnxruntime=={version}", "numpy<2"]  # versions before 1.19 were built against numpy 1
        subprocess.run([str(found), "-m", "pip", "install", "-q", *packages], check=True, stdout=sys.stderr)
        (folder / version / WHOLE).touch()
    return found


def is_whole(folder: Path, version: str) -> bool:
    """Return whether the environment of a version is there, its installation ended."""
    return (folder / version / WHOLE).is_file()


def outcomes(versions: Sequence[str], environments: Path, python: str = sys.executable) -> dict[str, Outcome]:
    """Return, by version, the largest difference of every file, or that it was refused."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for version in versions:
            own = environment(environments, version, python)
            done = subprocess.run(
                [str(own), __file__, CHILD, folder], check=True, stdout=subprocess.PIPE, text=True, env={}
            )
            found[version] = json.loads(done.stdout)
    return found


def table_of(found: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return the package's table (rmtkd_edge/export/runtimes.json): differences by family, graph and precision."""
    import onnxruntime
    from shapes import this_processor

    from rmtkd_edge.config.recipe import Export

    files: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
    for version, outcome in found.items():
        for name, value in outcome.items():
            kind, graph, precision = name.split("-")
            known = files.setdefault(kind, {}).setdefault(graph, {}).setdefault(precision, {})
            known[version] = None if isinstance(value, str) else float(f"{value:.1e}")
    known_as = {"reference": onnxruntime.__version__, "processor": this_processor().model, "opset": Export().opset}
    return {**known_as, "files": files}


def main() -> None:
    """Show a table: files by version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", default=",".join(VERSIONS), help="of onnxruntime, with commas")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="folder of the environments")
    parser.add_argument("--python", default=sys.executable, help="that they are made with")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--keep", action="store_true", help=f"write {TABLE.name}, which exports quote")
    args = parser.parse_args()
    rows = outcomes(args.versions.split(","), args.environments, args.python)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if args.keep:
        TABLE.write_text(json.dumps(table_of(rows), indent=1) + "\n", encoding="utf-8")
    print("| file |", " | ".join(rows), "|")
    print("|---" * (len(rows) + 1) + "|")
    for name in next(iter(rows.values())):
        cells = (found[name] if isinstance(found[name], str) else f"{found[name]:.0e}" for found in rows.values())
        print(f"| {name.replace('-', ' ')} |", " | ".join(cells), "|")


if __name__ == "__main__":
    child(Path(sys.argv[2])) if CHILD in sys.argv else main()
