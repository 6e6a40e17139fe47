"""Which split is which: what a source calls its splits, what is held out of train, and how many rows are taken.

Validation chooses (checkpoints, acceptance, stopping), test is only reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from rmtkd_edge.config.settings import did_you_mean
from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.stratify import SHOWN, Labels

ROLES = ("train", "validation", "test")
SYNONYMS = {  # those of the `datasets` library, in the order of preference
    "train": ("training",),
    "validation": ("valid", "val", "dev"),
    "test": ("testing", "eval", "evaluation"),
}
IGNORE_TEST = '--set task.test_split="" leaves it out'
SHOWN_UNUSED = 3
EXPECTED = 10  # rows of the rarest label in what is held out: with fewer, chance could leave it out


class Rows(Protocol):
    """Rows of a split, encoded or not."""

    def __len__(self) -> int: ...
    def take(self, indices: np.ndarray, /) -> Self: ...


P = TypeVar("P")
R = TypeVar("R", bound=Rows)


@dataclass(frozen=True)
class Source(Generic[P]):
    """What a source has of the roles train, validation and test, under which names, and what of it is not used."""

    parts: dict[str, P]
    origins: dict[str, str]
    unused: str = ""


@dataclass(frozen=True)
class Shares(Generic[R]):
    """Rows by role, train and validation always, and lines that say where they come from."""

    parts: dict[str, R]
    notes: tuple[str, ...]


def split_name(task: Task, role: str) -> str:
    """Return the name that the recipe gives the split of a role."""
    return str(getattr(task, f"{role}_split"))


def is_split_name(task: Task, name: str) -> bool:
    """Return whether a name is one of a split: the recipe's, or one that is known."""
    set_names = [split_name(task, role) for role in ROLES]
    return name in set_names or name.lower() in {*ROLES, *(n for others in SYNONYMS.values() for n in others)}


def hidden(name: str) -> bool:
    """Return whether a file or folder is one that systems and editors keep for themselves."""
    return name.startswith(".") or name == "__MACOSX"


def find_split(task: Task, role: str, names: Sequence[str]) -> str | None:
    """Return which of a source's split names serves a role: the recipe's, or where it sets none, one that is known."""
    wanted = split_name(task, role)
    if wanted in names:
        return wanted
    lower = {name.lower(): name for name in reversed(names)} if _is_default(wanted, role) else {}
    return next((lower[name] for name in (role, *SYNONYMS[role]) if name in lower), None)


def _is_default(name: str, role: str) -> bool:
    return bool(name == Task.model_fields[f"{role}_split"].default)


def choose(task: Task, names: Iterable[str], where: str, there: Sequence[str] = ()) -> dict[str, str]:
    """Return which of a source's split names serves which role; a role that nothing serves is left out.

    Args:
        names: of the splits of the source.
        where: the source, for messages.
        there: what it holds, for messages; the names when left out.

    Raises:
        DataError: there is no train split, none of a name that the recipe sets, or one for training and choosing.
    """
    known = list(names)
    if task.validation_split == task.train_split:
        raise DataError(
            f"task.train_split and task.validation_split are both `{task.train_split}`",
            'rows to choose by must not be trained on: --set task.validation_split="" holds a share of train out',
        )
    chosen = {role: split_name(task, role) for role in ROLES if split_name(task, role) in known}
    shown = ", ".join((list(there) or known)[:SHOWN]) or "nothing"
    for role in ROLES:
        name = split_name(task, role)
        if role in chosen or not name:
            continue
        other = find_split(task, role, [n for n in known if n not in chosen.values()])
        if other is not None:
            chosen[role] = other
        elif role == "train":
            raise DataError(f"{where} has no split `{name}` (it has {shown})", "rename it, or set task.train_split")
        elif not _is_default(name, role):
            raise DataError(
                f"{where} has no split `{name}`{did_you_mean(name, known)} (it has {shown})",
                f'set task.{role}_split to one of them, or --set task.{role}_split="" holds a share of train out',
            )
    return chosen


def choose_paths(task: Task, entries: Sequence[tuple[str, Path]], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the path of a folder that serves each role, and the names of what is there and serves none.

    Args:
        entries: split names, and the paths in the folder that have them.

    Raises:
        DataError: as `choose`, and where two paths claim one split.
    """
    there = sorted(path.name for path in folder.iterdir() if not hidden(path.name))
    chosen = {}
    for role, name in choose(task, [name for name, _ in entries], str(folder), there).items():
        path, *others = [path for known, path in entries if known == name]
        if others:
            both = ", ".join(p.name for p in (path, *others))
            raise DataError(f"{folder} holds the split `{name}` more than once: {both}", "keep one of them there")
        chosen[role] = path
    used = {path.name for path in chosen.values()}
    return chosen, [name for name in there if name not in used]


def folder_name(data: Path) -> str:
    """Return the last part of a path, of `.` too."""
    return data.name or data.resolve().name


def not_used(where: str, names: Sequence[str]) -> str:
    """Return a line on what of a source is not used, empty where all of it is."""
    if not names:
        return ""
    more = ", ..." if len(names) > SHOWN_UNUSED else ""
    return f"not used of {where}: {len(names)} ({', '.join(names[:SHOWN_UNUSED])}{more})"


def share_out(task: Task, source: Source[R], seed: int, labels: Labels | None = None) -> Shares[R]:
    """Return the rows of each role: those of the source, what is held out of train, then no more than the limits.

    One permutation of train, under the seed (`task.split_seed`, where it is set), gives validation its first rows and
    test its next, where either is missing. Where a label is so rare that such a draw could leave it out, every label
    gives the same share instead.

    Args:
        seed: of the run.
        labels: those of train, None where rows have none that every split should hold.

    Raises:
        DataError: a side of what is held out would be empty, or a class has too few rows for all sides.
    """
    seed = task.seed_of_split(seed)
    rows = _held_out(task, source, seed, labels)
    rng = np.random.default_rng([seed, 2])
    parts: dict[str, R] = {}
    told = []
    for role, indices in rows.items():
        part = source.parts.get(role, source.parts["train"])
        count, limit = len(part) if indices is None else len(indices), getattr(task, f"{role}_limit")
        if limit is not None and count > limit:
            drawn = np.sort(rng.permutation(count)[:limit])
            indices = drawn if indices is None else indices[drawn]
        parts[role] = part if indices is None else part.take(indices)
        origin = source.origins.get(role)
        told.append(f"{role} {len(parts[role])} rows " + (f"of {origin}" if origin else "held out of train"))
    if "test" not in parts:
        told.append("no test: validation is reported")
    return Shares(parts, tuple(note for note in ("; ".join(told), source.unused) if note))


def _held_out(task: Task, source: Source[R], seed: int, labels: Labels | None) -> dict[str, np.ndarray | None]:
    """Return the sorted row numbers of each role in its part of the source, or in train; None for the whole part."""
    whole: dict[str, np.ndarray | None] = {role: None for role in ROLES if role in source.parts}
    missing = [role for role in ROLES if role not in source.parts]
    if task.test_fraction == 0 and "test" in missing:
        missing.remove("test")
    if not missing:
        return whole
    sizes = _sizes(task, missing, len(source.parts["train"]))
    order = _order(sizes, len(source.parts["train"]), seed, labels)
    start = 0
    for role, size in sizes.items():
        whole[role] = np.sort(order[start : start + size])
        start += size
    return {role: np.sort(order[start:]) if role == "train" else whole[role] for role in ROLES if role in whole}


def _sizes(task: Task, missing: Sequence[str], count: int) -> dict[str, int]:
    """Return how many of the rows of train each missing role takes; raise DataError where a side would be empty."""
    sizes: dict[str, int] = {}
    for role in missing:
        fraction = getattr(task, f"{role}_fraction")
        sizes[role] = round(fraction * count)
        if not sizes[role] > 0 or sum(sizes.values()) >= count:
            way_out = ", or task.test_fraction=0: validation is reported" if role == "test" else ""
            raise DataError(
                f"no {role} split, and {fraction:g} of {count} rows leaves a side empty",
                f"bring a {role} split, or set task.{role}_fraction{way_out}",
            )
    return sizes


def _order(sizes: Mapping[str, int], count: int, seed: int, labels: Labels | None) -> np.ndarray:
    """Return the rows of train in the order in which the roles of `sizes` take theirs; the rest remains train's."""
    order: np.ndarray = np.random.default_rng(seed).permutation(count)
    if labels is None:
        return order
    counts = labels.counts()
    if counts[counts > 0].min() * min(sizes.values()) >= EXPECTED * count:
        return order
    labels.check(list(sizes.values()), list(sizes))
    return labels.order(list(sizes.values()), seed)
