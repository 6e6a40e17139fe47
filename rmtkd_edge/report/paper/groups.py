"""What may be compared: students of one teacher on the same reported rows that were asked for the same size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rmtkd_edge.report.paper.entries import Entry
from rmtkd_edge.run.layout import DEFAULT_METHOD
from rmtkd_edge.run.outputs import Batches
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.teacher import TeacherRecord

Differences = dict[str, tuple[str, str]]  # by key: this value, the other's


@dataclass(frozen=True)
class Setting:
    """One method under one setting, a run a seed."""

    method: str
    settings: Mapping[str, str]
    entries: tuple[Entry, ...]

    @property
    def outputs(self) -> dict[int, Batches]:
        """Outputs on the reported rows by seed, of the runs that keep them."""
        return {entry.seed: entry.outputs for entry in self.entries if entry.outputs is not None}

    def differences(self, other: Setting) -> Differences:
        """Return the keys in which it differs from another setting."""
        keys = sorted({*self.settings, *other.settings})
        pairs = {key: (self.settings.get(key, "null"), other.settings.get(key, "null")) for key in keys}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(frozen=True)
class Group:
    """Students that may be compared; the first setting of a method is its reference.

    Attributes:
        repeated: runs that are the same again (method, settings and seed), which are not counted.
    """

    settings: tuple[Setting, ...]
    repeated: tuple[str, ...]

    @property
    def first(self) -> Entry:
        """Any entry, for what they have in common."""
        return self.settings[0].entries[0]

    @property
    def teacher(self) -> TeacherRecord:
        """The teacher of all."""
        return self.first.record.teacher

    @property
    def scores(self) -> Scores:
        """The teacher's reported scores."""
        return self.first.teacher

    @cached_property
    def references(self) -> dict[str, Setting]:
        """The reference setting of every method, RMT-KD's first."""
        found: dict[str, Setting] = {}
        for setting in self.settings:
            found.setdefault(setting.method, setting)
        return dict(sorted(found.items(), key=lambda item: item[0] != DEFAULT_METHOD))

    @property
    def reference(self) -> Setting | None:
        """RMT-KD's reference setting, None where the group has no such run."""
        return self.references.get(DEFAULT_METHOD)

    @property
    def ablations(self) -> list[tuple[Setting, Differences]]:
        """RMT-KD's settings that differ from the reference in one key alone."""
        return [pair for pair in self.others if len(pair[1]) == 1 and pair[0].method == DEFAULT_METHOD]

    @property
    def others(self) -> list[tuple[Setting, Differences]]:
        """Return all settings but the references, with their differences from their method's."""
        found = self.references
        rest = [setting for setting in self.settings if setting is not found[setting.method]]
        return [(setting, setting.differences(found[setting.method])) for setting in rest]


def groups_of(entries: Sequence[Entry], reference: Mapping[str, str] | None = None) -> list[Group]:
    """Return the groups, those of one task and teacher next to each other, small targets first.

    Args:
        reference: settings that are their method's reference wherever a group has them, at any target.
    """
    found: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        found.setdefault(group_key(entry), []).append(entry)
    order = sorted(found, key=lambda key: (str(key[1]), str(key[2:5]), -1.0 if key[5] is None else key[5]))
    return [_group(found[key], reference) for key in order]


def group_key(entry: Entry) -> tuple[object, ...]:
    """Return what students of one group share; runs that do not record their rows are alone."""
    task, rows = entry.record.task, entry.rows_sha256 or f"not recorded: {entry.run}"
    return task.kind, task.name, entry.teacher.primary, entry.teacher_sha256 or entry.run, rows, entry.asked


def without_target(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings without the size that was asked for."""
    return {key: value for key, value in settings.items() if key != "stop.target_reduction"}


def _group(entries: Sequence[Entry], reference: Mapping[str, str] | None) -> Group:
    runs: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, Entry]] = {}
    repeated = []
    for entry in entries:
        seeds = runs.setdefault((entry.method, tuple(sorted(entry.settings.items()))), {})
        if entry.seed in seeds:
            repeated.append(entry.run)
        seeds.setdefault(entry.seed, entry)
    settings = [Setting(m, dict(keys), tuple(seeds[s] for s in sorted(seeds))) for (m, keys), seeds in runs.items()]
    wanted = None if reference is None else without_target(reference)
    ordered = sorted(settings, key=lambda one: _rank(one, settings, wanted), reverse=True)
    return Group(tuple(ordered), tuple(repeated))


def _rank(
    setting: Setting, settings: Sequence[Setting], wanted: Mapping[str, str] | None
) -> tuple[bool, bool, int, int]:
    """Return what makes a setting its method's reference, the most important first; of equal ones the first counts.

    That it is the one that was asked for; that its edge is a law's and no share of the variance; its number of seeds;
    how many settings of the method differ from it in one key alone. What the runs found has no part in it.
    """
    mine = [other for other in settings if other.method == setting.method]
    by_law = setting.entries[0].rule != "explained-variance"
    near = sum(len(other.differences(setting)) == 1 for other in mine)
    return without_target(setting.settings) == wanted, by_law, len(setting.entries), near
