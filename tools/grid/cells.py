"""The cells of the grid: study x method x target x budget x seed, their folders, their order, what they wait for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grid import settings
from grid.studies import RMT_KD, STUDIES, Study
from rmtkd_edge.errors import UserError

TEACHERS, STEPS, TIME, ATTRIBUTION, QUANTILE = "teachers", "steps", "time", "attribution", "quantile"
BUDGETS = (STEPS, TIME, ATTRIBUTION, QUANTILE)


@dataclass(frozen=True)
class Where:
    """Folders, and what the command line changes of every cell.

    Attributes:
        teachers: folders of trained teachers by the names that studies give, None without any.
        steps: in place of the studies' own.
    """

    out: Path
    data: Path
    teachers: Path | None = None
    changes: tuple[str, ...] = ()
    steps: int | None = None


@dataclass(frozen=True)
class Cell:
    """One run of one method, variant or quantile.

    Attributes:
        budget: what all cells under the same root have in common: `steps`, `time`, ...; `teachers` for a teacher.
        name: of the method or the variant; the edge rule of a quantile.
        target: share of the parameters to remove, None without one.
    """

    budget: str
    study: str
    name: str
    target: float | None
    seed: int
    quantile: float | None = None

    @property
    def of(self) -> Study:
        """Return the declaration of the study."""
        return STUDIES[self.study]

    @property
    def id(self) -> str:
        """Return the folder under the grid's own, which names the cell."""
        if self.budget == TEACHERS:
            return f"{self.budget}/{self.study}"
        what = f"{100 * self.target:g}" if self.target is not None else f"{self.quantile:g}"
        return f"{self.budget}/{self.study}/{self.name}-{what}/seed-{self.seed}"

    @property
    def method(self) -> str:
        """Return the method's name, for a variant rmt-kd."""
        return self.name if self.budget in (STEPS, TIME) else RMT_KD

    def facts(self) -> dict[str, object]:
        """Return what the cell's file says of it."""
        return {
            "budget": self.budget,
            "study": self.study,
            "method": self.method,
            "variant": None if self.budget in (STEPS, TIME) else self.name,
            "target": self.target,
            "quantile": self.quantile,
            "seed": self.seed,
        }


def teacher_of(study: str) -> Cell:
    """Return the cell that trains a study's teacher."""
    return Cell(TEACHERS, study, "teacher", None, settings.TEACHER_SEED)


def given_teacher(study: Study, where: Where) -> Path | None:
    """Return the folder of a teacher that is there already, None where the grid trains one."""
    folder = where.teachers / study.teacher if where.teachers is not None else None
    return folder.resolve() if folder is not None and folder.is_dir() else None


def needs(cell: Cell, where: Where) -> list[Cell]:
    """Return the cells that must be finished first."""
    if cell.budget == TEACHERS:
        return []
    found = [] if given_teacher(cell.of, where) else [teacher_of(cell.study)]
    rmt_kd = Cell(STEPS, cell.study, RMT_KD, cell.target, cell.seed)
    if cell.budget == TIME:
        found += dict.fromkeys([rmt_kd, Cell(STEPS, cell.study, cell.name, cell.target, cell.seed)])
    if cell.budget == ATTRIBUTION and settings.VARIANTS[cell.name].like_rmt_kd:
        found.append(rmt_kd)
    return found


def of_budget(budget: str, name: str, seed: int) -> Iterator[Cell]:
    """Yield a study's cells of one budget and seed."""
    study = STUDIES[name]
    if budget in (STEPS, TIME):
        for target in study.targets:
            for method in study.methods:
                yield Cell(budget, name, method, target, seed)
    elif budget == ATTRIBUTION and study.less:
        for variant, what in settings.VARIANTS.items():
            yield Cell(budget, name, variant, study.less if what.less else study.targets[-1], seed)
    elif budget == QUANTILE and study.quantiles:
        for rule in settings.RULES:
            for quantile in settings.QUANTILES:
                yield Cell(budget, name, rule, None, seed, quantile)


def all_cells(
    where: Where,
    studies: Sequence[str],
    budgets: Sequence[str],
    seeds: Sequence[int],
    names: Sequence[str] = (),
    targets: Sequence[float] = (),
) -> list[Cell]:
    """Return the cells in the order in which they are run: one seed of every cell, then the next.

    Args:
        names: methods, variants or rules; all of them where it is empty. What these need comes before them.
        targets: shares of the parameters to remove; all of them where it is empty.

    Raises:
        UserError: no study has such a target.
    """
    if odd := set(targets) - {target for study in studies for target in STUDIES[study].targets}:
        known = ", ".join(f"{study}: {' '.join(map(str, STUDIES[study].targets))}" for study in studies)
        raise UserError(f"no study has the target {', '.join(map(str, sorted(odd)))}", f"--targets; {known}")
    found: dict[Cell, None] = {}
    for seed in seeds:
        for budget in budgets:
            for study in studies:
                for cell in of_budget(budget, study, seed):
                    if (not names or cell.name in names) and (not targets or cell.target in targets):
                        found.update(dict.fromkeys([*needs_of_all([cell], where), cell]))
    return list(found)


def needs_of_all(cells: Sequence[Cell], where: Where) -> list[Cell]:
    """Return what cells need, and what that needs, in the order in which it is run."""
    found: list[Cell] = []
    for cell in cells:
        first = needs(cell, where)
        found += [*needs_of_all(first, where), *first]
    return found
