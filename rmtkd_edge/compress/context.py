"""What stays the same over a whole compression, so that every step takes it as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from rmtkd_edge.compress.data import Data
from rmtkd_edge.compress.latency import Measure, Predict, energy_predictor, predictor
from rmtkd_edge.compress.training.checkpoint import Checkpoints
from rmtkd_edge.compress.training.evaluate import evaluate
from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.families.base import Family
from rmtkd_edge.methods.base import Method
from rmtkd_edge.run.records.cycle import CycleRecord, PlanRecord
from rmtkd_edge.run.records.prices import PricesRecord
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.trials import TrialsRecord
from rmtkd_edge.tasks.base import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rmtkd_edge.families.model import Model

Report = Callable[..., None]


class Store(Protocol):
    """Keeps the finished steps of cycles; every `put` is atomic and every `get` returns None until then."""

    def get_record(self, number: int) -> CycleRecord | None: ...
    def put_record(self, number: int, record: CycleRecord) -> None: ...
    def get_plan(self, number: int) -> PlanRecord | None: ...
    def put_plan(self, number: int, plan: PlanRecord, spectra: dict[str, Tensor]) -> None: ...
    def get_trials(self, number: int) -> TrialsRecord | None: ...
    def put_trials(self, number: int, trials: TrialsRecord) -> None: ...
    def get_model(self, number: int, name: str) -> tuple[Model, dict[str, Tensor]] | None: ...
    def put_model(self, number: int, name: str, folded: Model, projections: dict[str, Tensor]) -> None: ...
    def checkpoints(self, number: int, attempt: int) -> Checkpoints: ...
    def get_prices(self) -> PricesRecord | None: ...
    def put_prices(self, prices: PricesRecord) -> None: ...


@dataclass(frozen=True)
class State:
    """The model between cycles: folded, the fixed projections after its producers by site, its validation scores."""

    folded: Model
    projections: dict[str, Tensor]
    scores: Scores

    @property
    def parameters(self) -> int:
        """Return the folded model's number of parameters."""
        return self.folded.spec.count_parameters()

    def after(self, folded: Model, new: dict[str, Tensor], scores: Scores) -> State:
        """Return the state after an accepted cycle; P2 P1 of two rounds has orthonormal rows again."""
        both = {name: p @ self.projections[name].to(p) if name in self.projections else p for name, p in new.items()}
        return State(folded, {**self.projections, **both}, scores)


@dataclass(frozen=True)
class Context:
    """What a loop works with.

    Attributes:
        profile: the device whose alignment and budgets hold, None where the recipe names none.
        multiple: widths are rounded up to it.
        teacher_parameters, teacher_scores: of the model that the loop starts from, on validation.
        measure_ms: latency of a folded model on this machine, where that is the budget's device.
        original: the folded model that the loop starts from, once it has started.
        fallback: there is an accepted student, which stays where a cycle over all sites falls under the floor.
    """

    recipe: Recipe
    family: Family
    task: Task[Any]
    method: Method
    data: Data
    accelerator: Accelerator
    store: Store
    report: Report
    multiple: int
    teacher_parameters: int
    teacher_scores: Scores
    profile: HardwareProfile | None = None
    measure_ms: Measure | None = None
    original: Model | None = None
    fallback: bool = False

    def aiming_at(self, target: float | None, fallback: bool) -> Context:
        """Return the context of one target of several."""
        return replace(self, recipe=self.recipe.aiming_at(target), fallback=fallback)

    def removed(self, state: State) -> float:
        """Return the share of the teacher's parameters that a state has no more."""
        return 1 - state.parameters / self.teacher_parameters

    @property
    def from_teacher(self) -> bool:
        """Return whether every student is cut from the teacher, in one cycle, and not from the student before."""
        return self.recipe.compress.one_shot or not self.method.iterative

    @property
    def floor(self) -> float:
        """Return the primary metric under which a cycle is rolled back."""
        return self.teacher_scores.value - self.recipe.stop.max_drop

    @property
    def step(self) -> int:
        """Return the multiple that ranks are rounded up to, 1 where the recipe does not align them."""
        return self.multiple if self.recipe.compress.align else 1

    @property
    def predict_ms(self) -> Predict | None:
        """Return what gives the latency of a spec by the device's measured curves, None where it has none."""
        return predictor(self.family, self.profile)

    @property
    def predict_mj(self) -> Predict | None:
        """Return what gives the gross energy in mJ of one input of a spec, None without curves and watts."""
        return energy_predictor(self.family, self.profile)

    def validate(self, model: Model) -> Scores:
        """Return a model's scores on the validation split."""
        metric = self.recipe.task.metric
        return evaluate(model, self.task, self.data.validation(), self.accelerator, "validation", metric)
