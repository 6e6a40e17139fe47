"""What the page says, in order: tables, figures, what each setting adds, the paper's table, what was skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Block, Document, NoteBlock, PictureBlock, Section, TableBlock, prefixes, text_row
from rmtkd_edge.report.collect import collect
from rmtkd_edge.report.paper.curves import Ablation, fall_sentence
from rmtkd_edge.report.paper.figures import power_picture, quality_picture, quantile_picture
from rmtkd_edge.report.paper.gather import Found
from rmtkd_edge.report.paper.groups import Group, group_key, without_target
from rmtkd_edge.report.paper.record import FileRecord, GroupRecord, PaperRecord
from rmtkd_edge.report.paper.resources import files_table, resource_picture
from rmtkd_edge.report.paper.tables import attribution, paper_table, plain, quantile_table, table_one
from rmtkd_edge.report.records import Compression
from rmtkd_edge.report.spectra import spectra_pictures
from rmtkd_edge.run.directory import Run

TITLE = "Table and figures of RMT-KD"
MARK = f"{TITLE} – rmtkd-edge report</title>"
FOOTER = (
    "Every figure on this page was read from the run directories, but for the table that is marked as the paper's; one "
    "that was not measured says why."
)
REFERENCE = (
    "A method with several settings is shown by its reference: the one that --reference names; else before all others "
    "one whose edge is no share of the variance, then the one with the most seeds, then that from which the most "
    "others differ in one key, then the first that was found. Results have no part in it."
)


def build(found: Found) -> Document:
    """Return the page; figures are drawn here."""
    record = found.record
    runs = sum(len(row.runs) for one in record.groups for row in (*one.table, *one.ablations))
    facts = (text.plural(runs, "student"), text.plural(len(record.groups), "group"))
    sections = (
        Section("table", "Table I, measured", (table_one(record.groups), *_apart(found))),
        Section("fig2", "Fig. 2: spectra by depth", tuple(_spectra(found))),
        Section("fig3", "Fig. 3: quality and power", (*_quality(found), *_power(record.files))),
        Section("fig4", "Fig. 4: disk, memory and energy", tuple(_resources(record.files))),
        Section("fig5", "Fig. 5: the quantile", tuple(_quantiles(found.ablations))),
        Section("attribution", "What each setting adds", tuple(_attribution(record.groups))),
        Section("paper", "Table I of the paper", tuple(paper_table())),
        Section("skipped", "What is not in the report", tuple(_skipped(record))),
    )
    return Document(TITLE, facts, (), (), (), sections, FOOTER)


def _apart(found: Found) -> Iterator[Block]:
    """Say what keeps groups of a task apart, which settings stand for a method, and what is not counted."""
    groups = found.record.groups
    for task in dict.fromkeys(one.task for one in groups):
        mine = [group for group in found.groups if group.first.record.task.name == task]
        keys = [group_key(group.first) for group in mine]
        teachers, rows, sizes = (len({key[place] for key in keys}) for place in (3, 4, 5))
        if len(mine) > 1:
            said = f"{text.plural(teachers, 'teacher')}, {text.plural(rows, 'set')} of reported rows, "
            said += f"{text.plural(sizes, 'size')} asked for"
            yield NoteBlock(f"{task}: {said}. Students of other teachers, rows or sizes are not compared.")
        if any(not group.first.rows_sha256 for group in mine):
            yield NoteBlock(f"{task}: runs that do not record their rows are compared with none.", tone="warn")
        yield from (NoteBlock(said, tone="warn") for said in _other_settings(task, mine))
    if any(row.differs for one in groups for row in (*one.table, *one.ablations)):
        yield NoteBlock(REFERENCE)
    if repeated := [run for one in groups for run in one.repeated]:
        yield NoteBlock(f"The same again (method, setting and seed), not counted: {', '.join(repeated)}.", tone="warn")


def _other_settings(task: str, groups: Sequence[Group]) -> Iterator[str]:
    """Yield a sentence for every method whose reference is set otherwise from group to group."""
    for method in dict.fromkeys(method for group in groups for method in group.references):
        mine = [group for group in groups if method in group.references]
        settings = [without_target(group.references[method].settings) for group in mine]
        said = []
        for key in sorted({key for one in settings for key in one}):
            values = [plain(one.get(key, "null")) for one in settings]
            if len(set(values)) > 1:
                at = (f"{v} at {_asked(group)}" for v, group in zip(values, mine, strict=True))
                said.append(f"{key} is {', '.join(at)}")
        if said:
            yield f"{task}: {text.method_name(method)} is not set the same in all groups: {'; '.join(said)}."


def _asked(group: Group) -> str:
    asked = group.first.asked
    return "no size" if asked is None else text.percent(asked)


def _spectra(found: Found) -> Iterator[Block]:
    """Yield the spectra of the first RMT-KD reference of every task and teacher."""
    chosen = {
        (record.task, record.teacher_sha256): group.reference.entries[0]
        for group, record in zip(reversed(found.groups), reversed(found.record.groups), strict=True)
        if group.reference is not None
    }
    names = list(reversed(chosen.items()))
    drawn = False
    for ((task, _), entry), prefix in zip(names, prefixes([task for (task, _), _ in names]), strict=True):
        try:
            (facts,) = collect([Run.open(Path(entry.run))])
        except RmtkdError as err:
            yield NoteBlock(f"The spectra of {entry.run} cannot be read: {err.message}", err.hint, "missing")
            continue
        c = facts.compression
        pictures = spectra_pictures(entry.cycles, c.spectra) if isinstance(c, Compression) else []
        if pictures:
            drawn = True
            yield NoteBlock(f"{task}: {entry.run}, its first round.")
            yield PictureBlock(pictures[0], prefix)
    if not drawn:
        yield _absent("No run of rmt-kd has spectra.", "rmtkd-edge compress RECIPE --out RUN")


def _quality(found: Found) -> Iterator[Block]:
    """Yield a figure for every task, teacher and set of reported rows."""
    pairs = zip(found.groups, found.record.groups, strict=True)
    several = [[record for _, record in same] for _, same in groupby(pairs, key=lambda pair: _all_but_size(pair[0]))]
    for records, prefix in zip(several, prefixes([records[0].task for records in several]), strict=True):
        yield PictureBlock(quality_picture(records), prefix)


def _all_but_size(group: Group) -> tuple[object, ...]:
    return group_key(group.first)[:-1]


def _power(files: Sequence[FileRecord]) -> Iterator[Block]:
    places = dict.fromkeys((file.run, file.device) for file in files if file.watts is not None)
    for (run, device), prefix in zip(places, prefixes([f"{run}-{device}" for run, device in places]), strict=True):
        yield NoteBlock(f"Files of {run}.")
        mine = [file for file in files if (file.run, file.device) == (run, device)]
        yield PictureBlock(power_picture(device, mine), prefix)
    if not places:
        why = "Power against speed-up is left out: no meter read the energy of these runs' files."
        yield _absent(why, "rmtkd-edge export RUN && rmtkd-edge profile RUN --on PROFILE")


def _resources(files: Sequence[FileRecord]) -> Iterator[Block]:
    if not files:
        yield _absent("No run was exported.", "rmtkd-edge export RUN && rmtkd-edge profile RUN --on PROFILE")
        return
    places = dict.fromkeys((file.run, file.device) for file in files)
    for (run, device), prefix in zip(places, prefixes([f"{run}-{device}" for run, device in places]), strict=True):
        mine = [file for file in files if (file.run, file.device) == (run, device)]
        yield PictureBlock(resource_picture(run, mine), prefix)
    yield files_table(files)


def _quantiles(ablations: Sequence[Ablation]) -> Iterator[Block]:
    names = prefixes([ablation.first.record.task.name for ablation in ablations])
    for ablation, prefix in zip(ablations, names, strict=True):
        yield PictureBlock(quantile_picture(ablation), prefix)
        yield quantile_table(ablation.curves, ablation.first.teacher.percent)
        yield NoteBlock(" ".join(map(fall_sentence, ablation.curves)))
        if ablation.left_out:
            why = "Left out, since a target or a rolled-back cycle set the quantile and not the recipe"
            yield NoteBlock(f"{why}: {', '.join(ablation.left_out)}.", tone="warn")
    if not ablations:
        why = "No two runs differ in analyse.quantile alone and were cut at it (a target that is met lowers it)."
        command = "rmtkd-edge compress RECIPE --set analyse.quantile=0.3 --set stop.target_reduction=none --out RUN"
        yield _absent(why, command)


def _attribution(groups: Sequence[GroupRecord]) -> Iterator[Block]:
    table = attribution(groups)
    if table is not None:
        yield table
    else:
        why = "No run of rmt-kd differs from the reference in one key alone."
        yield _absent(why, "rmtkd-edge compress RECIPE --set distil.match=0 --out RUN")
    if any(row.differs for one in groups for row in one.table):
        yield NoteBlock(
            "Settings that differ in several keys, and those of other methods, are rows of Table I; rule and quantile "
            "together are Fig. 5."
        )


def _skipped(record: PaperRecord) -> Iterator[Block]:
    if not record.skipped:
        yield NoteBlock("Every run that was named or found is in it.")
        return
    rows = tuple(text_row(one.run, one.why, one.hint) for one in record.skipped)
    yield TableBlock("Folders and runs that were left out.", ("Run", "Why", "What helps"), rows, frozenset({1, 2}))


def _absent(why: str, command: str) -> NoteBlock:
    return NoteBlock(f"{why} To make the data:", command, "missing")
