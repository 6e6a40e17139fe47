"""Splits in several files, as `datasets` and the hub write large ones: train-00000-of-00002.parquet and so on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.text_files import stem_of

SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def by_split(files: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """Return the name of every split and its files in their order; a file without a number is a split of its own.

    Raises:
        DataError: a file of a split is missing, or there twice.
    """
    whole: list[tuple[str, list[Path]]] = []
    shards: dict[tuple[str, int], list[tuple[int, Path]]] = {}
    for path in files:
        match = SHARD.fullmatch(stem_of(path))
        if match is None:
            whole.append((stem_of(path), [path]))
        else:
            shards.setdefault((match["name"], int(match["count"])), []).append((int(match["number"]), path))
    for (name, count), found in shards.items():
        numbers = sorted(number for number, _ in found)
        if numbers != list(range(count)):
            raise DataError(
                f"{found[0][1].parent} holds {len(found)} of the {count} files of the split `{name}`: "
                f"{', '.join(path.name for _, path in sorted(found)[:5])}{', ...' if len(found) > 5 else ''}",
                f"bring all of them, {name}-00000-of-{count:05} to {name}-{count - 1:05}-of-{count:05}, one each",
            )
        whole.append((name, [path for _, path in sorted(found)]))
    return whole
