"""What opening an ONNX file takes: peak memory above a bare import of onnxruntime, time to load, first and later calls.

    python tools/session_memory.py FILE... [--settings plain,unpacked] [--tokens 128] [--repeats 5] [--json FILE]

Every figure is the median of fresh processes, one thread, batch 1, full sequences of that many tokens or one image;
memory is VmHWM. `unpacked` leaves out prepacking (session.disable_prepacking), by which kernels keep a second copy of
their weights in the order that they read; `external` gives the same graph with its weights in a file next to it, which
onnxruntime maps into memory.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

CHILD = "--child"
SETTINGS = ("plain", "unpacked", "external")
CALLS = 10


def bytes_of(key: str) -> int:
    """Return VmHWM or VmRSS of this process in bytes."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, f"/proc/self/status gives no {key}"
    return int(found[1]) * 1024


def child(path: str, setting: str, tokens: int) -> None:
    """Open a file, run it, and print the figures as one JSON line."""
    import numpy as np
    import onnxruntime

    bare, start = bytes_of("VmHWM"), time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if setting == "unpacked":
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    loaded, feed = time.perf_counter(), {}
    for item in session.get_inputs():
        sizes = [1 if axis == 0 else tokens if isinstance(size, str) else size for axis, size in enumerate(item.shape)]
        feed[item.name] = np.ones(sizes, np.float32 if item.type == "tensor(float)" else np.int64)
    ends = [time.perf_counter()]
    for _ in range(1 + CALLS):
        session.run(None, feed)
        ends.append(time.perf_counter())
    calls = [1e3 * (after - before) for before, after in pairwise(ends)]
    facts = {"peak_bytes": bytes_of("VmHWM") - bare, "load_ms": 1e3 * (loaded - start)}
    print(json.dumps({**facts, "first_ms": calls[0], "call_ms": median(calls[1:])}))


def with_weights_outside(path: Path, folder: Path) -> Path:
    """Return a copy of a file whose weights lie in another one next to it."""
    import onnx

    target = folder / path.name
    onnx.save(onnx.load(str(path)), str(target), save_as_external_data=True, location=f"{path.name}.data")
    return target


def measured(path: Path, setting: str, tokens: int, repeats: int) -> dict[str, Any]:
    """Return the medians of fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        file = with_weights_outside(path, Path(folder)) if setting == "external" else path
        command = [sys.executable, __file__, CHILD, str(file), setting, str(tokens)]
        outputs = [
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout for _ in range(repeats)
        ]
    found = [json.loads(text) for text in outputs]
    figures = {key: round(median(one[key] for one in found), 1) for key in found[0]}
    return {"file": path.name, "setting": setting, "file_bytes": path.stat().st_size, **figures}


def main() -> None:
    """Show a table: files by setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    rows = [measured(file, name, args.tokens, args.repeats) for file in args.files for name in args.settings.split(",")]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("| file | setting | MB | peak MB | peak less file, MB | load ms | first call ms | call ms |")
    print("|---" * 8 + "|")
    for row in rows:
        size, peak = row["file_bytes"] / 1e6, row["peak_bytes"] / 1e6
        times = " | ".join(f"{row[key]:.0f}" for key in ("load_ms", "first_ms", "call_ms"))
        print(f"| {row['file']} | {row['setting']} | {size:.1f} | {peak:.1f} | {peak - size:.1f} | {times} |")


if __name__ == "__main__":
    child(sys.argv[2], sys.argv[3], int(sys.argv[4])) if CHILD in sys.argv else main()
