"""Sketches of tasks to come: labels by token and embeddings fit the protocol as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tasks.tasks_sample import recipe_of
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.task import Task as Settings
from rmtkd_edge.run.records.data import DataSummary, SplitSummary
from rmtkd_edge.spectral.seeded import row_contrasts
from rmtkd_edge.tasks.base import (
    Batch,
    Dataset,
    Exported,
    Normalisation,
    Prediction,
    Task,
)
from rmtkd_edge.tasks.scoring import score
from rmtkd_edge.tasks.subsets import Subsets, draw_subsets

IGNORED = -100
ROWS, LENGTH = 40, 6


@dataclass(frozen=True)
class Rows:
    """Token ids (n, T) and targets of any shape (n, ...)."""

    ids: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> Rows:
        return Rows(self.ids[indices], self.targets[indices])


class Sketch:
    """What the sketches share: drawn rows, batches, and a predictor of token ids."""

    name, modality, evaluation_batch = "sketch", "text", 4
    hub = None
    required_keys: Mapping[str, str] = {}
    known_metrics: tuple[str, ...] = ()
    percent_metrics: tuple[str, ...] = ()
    prediction: Literal["argmax", "sign", "none"] = "none"
    head: Literal["row", "token", "embedding"] = "row"
    labelled = True
    target_names = ("wanted",)
    labels: tuple[str, ...] = ("a", "b", "c")

    def draw(self, ids: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def answers(self, outputs: np.ndarray) -> list[Any]:
        return []

    def load(
        self,
        recipe: Recipe,
        data: Path | None,
        *,
        kept: Path | None = None,
        source_normalisation: Normalisation | None = None,
    ) -> Dataset[Rows]:
        ids = np.random.default_rng(recipe.seed).integers(1, 9, (ROWS, LENGTH))
        ids[::3, LENGTH // 2 :] = 0  # padding
        rows = Rows(ids, self.draw(ids))
        train, validation, test = (rows.take(np.arange(start, ROWS, 3)) for start in range(3))
        return Dataset(self.name, self.labels, train, validation, test, preprocessing=None, max_length=LENGTH)

    def batches(self, dataset: Dataset[Rows], split: Rows, batch_size: int, seed: int | None) -> Iterator[Batch]:
        order = np.arange(len(split)) if seed is None else np.random.default_rng(seed).permutation(len(split))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids = torch.from_numpy(split.ids[rows])
            yield {
                "input_ids": ids,
                "attention_mask": (ids > 0).long(),
                "wanted": torch.from_numpy(split.targets[rows]),
                "index": torch.from_numpy(rows),
            }

    def subsets(self, dataset: Dataset[Rows], recipe: Recipe) -> Subsets:
        return draw_subsets(len(dataset.train), recipe, lambda order: (8, 4))

    def preprocessing_of(self, spec: Any, tokenizer: Any) -> Any | None:
        return tokenizer

    def save_preprocessing(self, dataset: Dataset[Rows], folder: Path) -> None:
        (folder / "sketch.txt").write_text("ids", encoding="utf-8")

    def summary(self, dataset: Dataset[Rows]) -> DataSummary:
        splits = {role: SplitSummary(len(rows), {}, None) for role, rows in dataset.splits.items()}
        return DataSummary(self.name, self.name, (), splits, dataset.max_length, "", (), ())

    def baseline(self, targets: Sequence[np.ndarray], outputs: int) -> dict[str, float]:
        return {}

    def targets(self, batch: Batch) -> np.ndarray:
        return batch["wanted"].numpy()

    def why_missing(self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> str:
        return ""

    def interval(
        self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], seed: int = 0
    ) -> tuple[float, float] | None:
        return None

    def row_scores(self, metric: str, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        return None

    def verification_batches(
        self, batches: Iterable[Mapping[str, Tensor]], spec: Any, max_length: int | None = None
    ) -> list[Batch]:
        return [dict(batch) for batch in batches]

    def check_preprocessing(self, dataset: Dataset[Rows], folder: Path, spec: Any) -> None:
        return None

    def predictor(self, folder: Path, record: Exported, run: Callable[[Batch], np.ndarray]) -> SketchPredictor:
        return SketchPredictor(self, run)


@dataclass(frozen=True)
class SketchPredictor:
    task: Sketch
    run: Callable[[Batch], np.ndarray]

    def predict(self, items: Sequence[Any], batch_size: int = 32) -> Prediction:
        ids = torch.tensor(np.array(items))
        outputs = self.run({"input_ids": ids, "attention_mask": (ids > 0).long()})
        return Prediction(outputs, self.task.answers(outputs))


class TokenClassification(Sketch):
    """A label a token: outputs (B, T, C), targets (B, T) with -100 where a token does not count."""

    name, known_metrics = "token-classification", ("accuracy",)
    percent_metrics, prediction, head = ("accuracy",), "argmax", "token"

    def draw(self, ids: np.ndarray) -> np.ndarray:
        return np.where(ids > 0, ids % 3, IGNORED)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs.float().flatten(0, 1), batch["wanted"].flatten(), ignore_index=IGNORED)

    def divergence(self, old: Tensor, new: Tensor, temperature: float = 1.0, batch: Batch | None = None) -> Tensor:
        soft = [F.log_softmax(z.float() / temperature, -1) for z in (new, old)]
        kl = F.kl_div(soft[0], soft[1], log_target=True, reduction="none").sum(-1)
        return temperature**2 * kl[self._counts(old, batch)].mean()

    def probe(self, outputs: Tensor, batch: Batch, seed: int) -> Tensor:
        drawn = torch.from_numpy(row_contrasts(seed, batch["index"].numpy(), outputs.shape[-1])).to(outputs)
        return ((outputs * drawn[:, None]).sum(-1) * batch["attention_mask"]).sum()

    def metrics(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
        right = [(o.argmax(-1) == t)[t != IGNORED] for o, t in zip(outputs, targets, strict=True)]  # T may differ
        return {"accuracy": float(np.concatenate(right).mean())}

    def agreement(self, a: np.ndarray, b: np.ndarray, batch: Batch | None = None) -> float:
        counts = self._counts(torch.from_numpy(a), batch).numpy()
        return float((a.argmax(-1) == b.argmax(-1))[counts].mean())

    def answers(self, outputs: np.ndarray) -> list[Any]:
        return [[self.labels[i] for i in row] for row in outputs.argmax(-1)]

    def _counts(self, outputs: Tensor, batch: Batch | None) -> Tensor:
        every = torch.ones(outputs.shape[:2], dtype=torch.bool)
        return every if batch is None else batch["attention_mask"].bool()


class Embeddings(Sketch):
    """A vector a row, compared by direction: outputs (B, width), targets (B,) are groups."""

    name, known_metrics, labels, head = "embeddings", ("nearest",), (), "embedding"

    def draw(self, ids: np.ndarray) -> np.ndarray:
        return np.arange(len(ids)) // 3 % 4

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        unit = F.normalize(outputs.float(), dim=1)
        same = (batch["wanted"][:, None] == batch["wanted"]).float()
        return F.mse_loss(unit @ unit.T, same)

    def divergence(self, old: Tensor, new: Tensor, temperature: float = 1.0, batch: Batch | None = None) -> Tensor:
        return (1 - F.cosine_similarity(old.float(), new.float(), dim=1)).mean()

    def probe(self, outputs: Tensor, batch: Batch, seed: int) -> Tensor:
        drawn = row_contrasts(seed, batch["index"].numpy(), outputs.shape[1])
        return (F.normalize(outputs, dim=1) * torch.from_numpy(drawn).to(outputs)).sum()

    def metrics(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
        found, groups = np.concatenate(outputs), np.concatenate(targets)
        return {"nearest": float((groups[_nearest(found)] == groups).mean())}

    def agreement(self, a: np.ndarray, b: np.ndarray, batch: Batch | None = None) -> float:
        return float((_nearest(a) == _nearest(b)).mean())


def _nearest(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.argmax(unit @ unit.T - 2 * np.eye(len(unit)), axis=1)


class Model(torch.nn.Module):
    """Mean token embedding, or every token's, to outputs."""

    def __init__(self, outputs: int, by_token: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.out, self.by_token = torch.nn.Embedding(9, 16), torch.nn.Linear(16, outputs), by_token

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        mask = batch["attention_mask"][..., None].float()
        x = self.words(batch["input_ids"])
        return self.out(x if self.by_token else (x * mask).sum(1) / mask.sum(1))


SKETCHES: list[tuple[Task[Rows], Model]] = [
    (TokenClassification(), Model(3, True)),
    (Embeddings(), Model(5, False)),
]


def run(task: Task[Rows], model: Model, dataset: Dataset[Rows]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    batches = list(task.batches(dataset, dataset.validation, 5, None))
    with torch.no_grad():
        return [model(batch).numpy() for batch in batches], [task.targets(batch) for batch in batches]


@pytest.mark.parametrize(("task", "model"), SKETCHES, ids=[task.name for task, _ in SKETCHES])
def test_other_kinds_of_tasks_fit(task: Task[Rows], model: Model, tmp_path: Path) -> None:
    assert isinstance(task, Task)
    recipe = recipe_of(Settings(name="t", text=["text"]))
    dataset = task.load(recipe, None)
    assert all(task.subsets(dataset, recipe).warm >= 0)
    before = score(task, None, "validation", *run(task, model, dataset))
    assert before.primary == task.known_metrics[0] and before.interval is None

    optimiser, losses = torch.optim.Adam(model.parameters(), 0.02), []
    old = Model(model.out.out_features, model.by_token)
    for epoch in range(60):
        for batch in task.batches(dataset, dataset.train, 5, epoch):
            found = model(batch)
            loss = task.loss(found, batch) + 0.01 * task.divergence(old(batch).detach(), found, 2.0, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])

    batch = next(iter(task.batches(dataset, dataset.train, 5, None)))
    found, other = model(batch), old(batch)
    assert float(task.divergence(found, found, 1.0, batch)) == pytest.approx(0, abs=1e-6)
    assert float(task.divergence(found, other, 1.0, batch)) > 0
    assert torch.autograd.grad(task.probe(found, batch, 0), found)[0].abs().sum() > 0
    a, b = found.detach().numpy(), other.detach().numpy()
    assert task.agreement(a, a, batch) == 1.0 and 0 <= task.agreement(a, b, batch) <= 1

    task.save_preprocessing(dataset, tmp_path)
    record: Any = None
    predictor = task.predictor(tmp_path, record, lambda batch: model(batch).detach().numpy())
    answer = predictor.predict(dataset.validation.ids[:4].tolist())
    assert len(answer.outputs) == 4 and len(answer.labels) == (4 if dataset.labels else 0)


def test_padded_tokens_do_not_count() -> None:
    task = TokenClassification()
    batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    old = torch.zeros(1, 3, 3)
    new = old.clone()
    new[0, 2, 1] = 5.0  # differs on padding alone
    assert float(task.divergence(old, new, 1.0, batch)) == 0 < float(task.divergence(old, new))
    assert task.agreement(old.numpy(), new.numpy(), batch) == 1.0 > task.agreement(old.numpy(), new.numpy())
