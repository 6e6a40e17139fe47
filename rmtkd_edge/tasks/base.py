"""What a task is: its data as splits and batches, its loss, its metrics, and how an exported model predicts.

Everything that knows what a label is lives in that task's file; the rest of the package knows these protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from rmtkd_edge import plugins
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.settings import Head
from rmtkd_edge.run.records.data import DataSummary
from rmtkd_edge.tasks.dataset import Batch as Batch
from rmtkd_edge.tasks.dataset import Dataset as Dataset
from rmtkd_edge.tasks.dataset import FewerTokens as FewerTokens
from rmtkd_edge.tasks.dataset import Normalisation as Normalisation
from rmtkd_edge.tasks.dataset import S
from rmtkd_edge.tasks.dataset import Sample as Sample
from rmtkd_edge.tasks.dataset import Split as Split
from rmtkd_edge.tasks.subsets import Subsets

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.families.base import Spec
    from rmtkd_edge.tasks.reading.usage import HubTask


@dataclass(frozen=True)
class Prediction:
    """Outputs of a model, one row an item, and the prediction for each (a label, or what else the task predicts)."""

    outputs: np.ndarray
    labels: list[Any]


class Predictor(Protocol):
    """Predicts with an exported model, from items as a user has them."""

    def predict(self, items: Sequence[Any], batch_size: int = 32) -> Prediction:
        """Return the outputs for items (texts, pairs, images); an empty list gives no rows."""


class Exported(Protocol):
    """What a predictor reads of an export's record."""

    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def max_length(self) -> int | None: ...


@runtime_checkable
class Task(Protocol[S]):
    """What the package needs of a task; plain attributes serve as its properties."""

    @property
    def name(self) -> str: ...
    @property
    def modality(self) -> str:
        """Return `text` or `image`: families of the same modality can serve it."""

    @property
    def head(self) -> Head:
        """Return what a model of the task gives."""

    @property
    def labelled(self) -> bool:
        """Return whether rows have targets of their own: without, students learn from their teacher alone."""

    @property
    def known_metrics(self) -> tuple[str, ...]:
        """Return the names of the metrics, the default one first."""

    @property
    def percent_metrics(self) -> tuple[str, ...]:
        """Return those that are shares of one, written in percent and compared in points."""

    @property
    def prediction(self) -> Literal["argmax", "sign", "none"]:
        """Return how an output predicts along its last axis: by its largest value, by those above zero, or not at all.

        For the stand-alone runner, which compares the predictions of two processors without this package.
        """

    @property
    def hub(self) -> HubTask | None:
        """Return what the hub calls the task, None where it has no such task."""

    @property
    def required_keys(self) -> Mapping[str, str]:
        """Return the keys of a recipe's section `task` that must not be empty, each with an example in TOML."""

    @property
    def evaluation_batch(self) -> int:
        """Return how many rows a pass without gradients takes at once."""

    # data
    def load(
        self,
        recipe: Recipe,
        data: Path | None,
        *,
        kept: Path | None = None,
        source_normalisation: Normalisation | None = None,
    ) -> Dataset[S]:
        """Return the rows of a recipe.

        Args:
            data: a user's file or folder, which comes before the recipe's data set.
            kept: a folder that `save_preprocessing` wrote, which then replaces what the recipe says of preprocessing.
            source_normalisation: what the recipe's checkpoint was trained with, None where it says nothing.

        Raises:
            DataError: for rows that cannot be used, and for a metric that they do not allow.
        """

    def summary(self, dataset: Dataset[S]) -> DataSummary:
        """Return what was read, and the first rows as a model sees them."""

    def batches(self, dataset: Dataset[S], split: S, batch_size: int, seed: int | None) -> Iterator[Batch]:
        """Yield every row once: shuffled under a seed (and augmented where the data are), else in a fixed order."""

    def subsets(self, dataset: Dataset[S], recipe: Recipe) -> Subsets:
        """Return the rows of train that spectra and closed forms look at, drawn under the recipe's seed."""

    def preprocessing_of(self, spec: Spec, tokenizer: Any) -> Any | None:
        """Return what `save_preprocessing` writes for a model without a data set, None where nothing says it."""

    def save_preprocessing(self, dataset: Dataset[S], folder: Path) -> None:
        """Write what turns raw items into model inputs, under the names that other loaders look for."""

    # training
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, float32."""

    def divergence(self, old: Tensor, new: Tensor, temperature: float = 1.0, batch: Batch | None = None) -> Tensor:
        """Return how far new outputs are from old ones, mean over the batch: zero for equal ones, else positive.

        Args:
            temperature: T of softened probabilities, the result times T^2; outputs without probabilities ignore it.
            batch: says what does not count, such as padded tokens; None where everything does.
        """

    def probe(self, outputs: Tensor, batch: Batch, seed: int) -> Tensor:
        """Return the scalar whose gradient at a site shows the site's effect on the outputs."""

    # figures
    @property
    def target_names(self) -> tuple[str, ...]:
        """Return the names of a batch's targets."""

    def targets(self, batch: Batch) -> np.ndarray:
        """Return what `metrics` compares the outputs of a batch with."""

    def metrics(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
        """Return every metric that these batches allow; higher is better."""

    def baseline(self, targets: Sequence[np.ndarray], outputs: int) -> dict[str, float]:
        """Return the metrics of a model that looks at no input: of always predicting one label, for one.

        A model that is no better has learnt nothing. Metrics that such a model reaches in full are left out.

        Args:
            targets: of all rows of a split.
            outputs: values a row that models of the task give.
        """

    def why_missing(self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> str:
        """Return why `metrics` leaves a known metric out for these batches."""

    def interval(
        self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], seed: int = 0
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric over rows, None where the rows do not allow the metric."""

    def row_scores(self, metric: str, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        """Return what every row of one batch adds to a metric that is a mean over rows, None for another metric."""

    def agreement(self, a: np.ndarray, b: np.ndarray, batch: Batch | None = None) -> float:
        """Return the share of rows of one batch with the same prediction in both outputs."""

    # export
    def verification_batches(
        self, batches: Iterable[Mapping[str, Tensor]], spec: Spec, max_length: int | None = None
    ) -> list[Batch]:
        """Return held-out batches and, made of their rows, those shapes where exports break.

        Args:
            spec: of the model, whose inputs the batches keep.
            max_length: the data set's, where it is shorter than the model's.
        """

    def check_preprocessing(self, dataset: Dataset[S], folder: Path, spec: Spec) -> tuple[str, ...]:
        """Compare what other libraries make of the raw `samples`, by the files of an exported folder, with training.

        Returns:
            What a user has to know: rows that no file can tell other libraries to read as training did.

        Raises:
            Finding: inputs of the spec differ; it says of which row, where and how far.
        """

    def predictor(self, folder: Path, record: Exported, run: Callable[[Batch], np.ndarray]) -> Predictor:
        """Return what predicts with an exported folder, `run` giving the model's outputs for a batch."""


@runtime_checkable
class HasVocabulary(Protocol[S]):
    """A task whose inputs are the ids of tokens, of which some can go."""

    def cut_vocabulary(self, dataset: Dataset[S], recipe: Recipe, data: Path | None, folder: Path) -> FewerTokens[S]:
        """Write what `save_preprocessing` does for the tokens that `compress.vocabulary` leaves, and read the rows so.

        Args:
            data: as `load` has it.
            folder: for the files.
        """


@runtime_checkable
class JudgedByTeacher(Protocol[S]):
    """A task whose held-out rows have the outputs of the teacher as targets."""

    def with_reference(self, dataset: Dataset[S], outputs: Callable[[Batch], np.ndarray]) -> Dataset[S]:
        """Return the data set with such targets; `outputs` gives the teacher's, float32, for a batch."""

    def with_same_reference(self, dataset: Dataset[S], other: Dataset[S]) -> Dataset[S]:
        """Return the data set with the targets of another one, whose rows are the same, read otherwise."""


def find_task(name: str) -> Task[Any]:
    """Return the task of a name; raise RecipeError with the known ones otherwise."""
    return plugins.find("tasks", name)


def tasks_of(modality: str) -> list[Task[Any]]:
    """Return the tasks of a modality by name."""
    found = [find_task(name) for name in plugins.names("tasks")]
    return sorted((task for task in found if task.modality == modality), key=lambda task: task.name)
