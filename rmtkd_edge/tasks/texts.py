"""What tasks on texts share: rows to token ids, checked before anything expensive starts; batches in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.task import Task as TaskSettings
from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.run.records.data import SourceSummary
from rmtkd_edge.run.records.vocabulary import VocabularyRecord
from rmtkd_edge.tasks.base import Batch, Dataset, Exported, FewerTokens, Normalisation, Prediction, Predictor, Sample
from rmtkd_edge.tasks.labelled import Labelled, Predictions, joined
from rmtkd_edge.tasks.reading.clients import SAMPLES, compare_texts
from rmtkd_edge.tasks.reading.digests import rows_digest
from rmtkd_edge.tasks.reading.progress import tell_source
from rmtkd_edge.tasks.reading.ragged import Ragged
from rmtkd_edge.tasks.reading.sequences import (
    Ids,
    Special,
    batch_rows,
    check_table,
    check_texts,
    encode,
    padded,
    table_ids,
    variations,
)
from rmtkd_edge.tasks.reading.splits import share_out
from rmtkd_edge.tasks.reading.stratify import Labels
from rmtkd_edge.tasks.reading.tables import load_tables
from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer
from rmtkd_edge.tasks.reading.unlabelled import unlabelled_rows
from rmtkd_edge.tasks.reading.vocabulary import changed_tokens, cut_tokenizer, kept_tokens
from rmtkd_edge.tasks.subsets import Subsets, draw_subsets

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from rmtkd_edge.families.base import Spec

SHOWN = 200  # characters of a text in a summary
TRIAL_TOKENS = 8192  # fitted on where closed forms are only compared: three times as many choose no better

Texts = Sequence[str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class TextSplit:
    """Rows of one split: token ids with special tokens (truncated), type ids of pairs, and the task's targets.

    Attributes:
        labels: an array whose first axis is the rows; None where rows have no targets.
    """

    ids: Ids
    type_ids: Ids | None
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> TextSplit:
        """Return the rows of the given numbers, in their order."""
        types = None if self.type_ids is None else Ragged.of(self.type_ids).take(indices)
        labels = None if self.labels is None else self.labels[indices]
        return TextSplit(Ragged.of(self.ids).take(indices), types, labels)

    def with_rows(self, ids: Ids, type_ids: Ids | None) -> TextSplit:
        """Return the rows, then others that have no targets; none has them then."""
        mine = () if self.type_ids is None or type_ids is None else (self.type_ids, type_ids)
        types = Ragged.joined(map(Ragged.of, mine)) if mine else None
        return TextSplit(Ragged.joined([Ragged.of(self.ids), Ragged.of(ids)]), types, None)

    @property
    def lengths(self) -> np.ndarray:
        """Return the tokens of every row, int64 (n,)."""
        return Ragged.of(self.ids).lengths

    def digest(self, names: Sequence[str]) -> str:
        """Return a hash of the rows and of the labels' names."""
        return rows_digest(names, self.ids, self.type_ids or [], *([] if self.labels is None else [self.labels]))


class TextTask(Labelled):
    """A task on texts, or on pairs of texts; what a label is, its own methods say."""

    modality = "text"
    evaluation_batch = 64
    required_keys: Mapping[str, str] = {"text": '["sentence"]'}

    def label_columns(self, task: TaskSettings) -> Sequence[str]:
        """Return the columns that labels are read from."""
        return (task.label,)

    def names(self, task: TaskSettings, train: pa.Table) -> list[str]:
        """Return the names of the outputs in their order; raise DataError for labels that cannot be learnt."""
        raise NotImplementedError

    def values(self, task: TaskSettings, table: pa.Table, where: str, names: Sequence[str]) -> np.ndarray:
        """Return the target of every row; raise DataError, with the place of the first, for labels that are none."""
        raise NotImplementedError

    def texts(self, task: TaskSettings, table: pa.Table, where: str) -> pa.Table:
        """Return a table whose columns of texts hold texts; raise DataError where they cannot be made."""
        return table

    def encoded(self, task: TaskSettings, table: pa.Table, where: str, tokenizer: Any, values: np.ndarray) -> TextSplit:
        """Return rows as a split; `values` are their targets."""
        return TextSplit(*table_ids(task, table, where, tokenizer), values)

    def shared_labels(self, names: Sequence[str], values: np.ndarray) -> Labels | None:
        """Return the labels of train that every split should hold, None where rows have none."""
        return None

    def check(self, task: TaskSettings, names: Sequence[str], split: str, values: np.ndarray) -> None:
        """Raise DataError where the targets of a split other than train do not allow the recipe's metric."""

    def label_notes(
        self, task: TaskSettings, train: pa.Table, names: Sequence[str], values: Mapping[str, np.ndarray]
    ) -> tuple[str, ...]:
        """Return lines for the user on odd labels; `values` are the targets by split."""
        return ()

    def lost(self, values: Mapping[str, np.ndarray], splits: Mapping[str, TextSplit]) -> tuple[str, ...]:
        """Return lines on targets that have no place in the encoded rows; `values` are the targets by split."""
        return ()

    def predictions(self, outputs: np.ndarray, labels: Sequence[str]) -> list[Any]:
        """Return what each row of outputs (n, labels) predicts."""
        raise NotImplementedError

    def load(
        self,
        recipe: Recipe,
        data: Path | None,
        *,
        kept: Path | None = None,
        source_normalisation: Normalisation | None = None,
    ) -> Dataset[TextSplit]:
        """Return the tokenised rows of a recipe.

        Raises:
            DataError: missing columns, no rows, empty or odd values, labels that cannot be learnt or are unknown.
            UserError: there is no tokenizer.
        """
        task = recipe.task
        tokenizer = load_tokenizer(str(kept) if kept else recipe.model.tokenizer or recipe.model.source)
        source = load_tables(task, data)
        odd: list[str] = []
        for role, table in source.parts.items():  # of the files themselves, whose rows the user knows
            check_table(task, table, role, self.label_columns(task))
            tell_source(source.origins[role], len(table), role)
            source.parts[role] = self.texts(task, table, role)
            odd += check_texts(task, source.parts[role], role)
        names = self.names(task, source.parts["train"])
        classes = self.shared_labels(names, self.values(task, source.parts["train"], "train", names))
        shares = share_out(task, source, recipe.seed, classes)
        values = {role: self.values(task, table, role, names) for role, table in shares.parts.items()}
        for role in values.keys() - {"train"}:
            self.check(task, names, role, values[role])
        splits = {
            role: self.encoded(task, table, role, tokenizer, values[role]) for role, table in shares.parts.items()
        }
        more = unlabelled_rows(task, tokenizer, [split.ids for role, split in splits.items() if role != "train"])
        distilled = None if more is None else splits["train"].with_rows(more.ids, more.type_ids)
        whole = splits if distilled is None else {**splits, "unlabelled": distilled}
        return Dataset(
            task.name,
            tuple(names),
            splits["train"],
            splits["validation"],
            splits.get("test"),
            tokenizer,
            (
                *shares.notes,
                *self.label_notes(task, source.parts["train"], names, values),
                *self.lost(values, splits),
                *odd,
                *(() if more is None else more.notes),
            ),
            sources=tuple(
                SourceSummary(role, source.origins[role], len(table), {}, {}) for role, table in source.parts.items()
            ),
            not_used=source.unused,
            max_length=task.max_length,
            digests={role: split.digest(names) for role, split in whole.items()},
            samples=_samples(shares.parts["validation"].select(list(task.text)), splits["validation"]),
            distilled=distilled,
        )

    def cut(self, dataset: Dataset[TextSplit], split: TextSplit) -> int | None:
        """Return how many texts fill the longest length."""
        longest = dataset.max_length
        return None if longest is None else int((split.lengths >= longest).sum())

    def seen(self, dataset: Dataset[TextSplit], row: int) -> str:
        """Return the tokens of a text of train as a model sees them, special ones included."""
        ids = list(dataset.train.ids[row])
        text = " ".join(dataset.preprocessing.decode(ids).split())
        return f"{text[:SHOWN]}{'...' if len(text) > SHOWN else ''} ({len(ids)} tokens)"

    def batches(
        self, dataset: Dataset[TextSplit], split: TextSplit, batch_size: int, seed: int | None
    ) -> Iterator[Batch]:
        """Yield padded batches: what `padded` gives, `index`, int64, and `labels` where the rows have them."""
        import torch

        special = Special.of(dataset.preprocessing)
        for rows in batch_rows(split.lengths, batch_size, seed):
            types = None if split.type_ids is None else [split.type_ids[i] for i in rows]
            batch = padded([split.ids[i] for i in rows], types, special)
            batch["index"] = torch.from_numpy(rows.astype(np.int64))
            if split.labels is not None:
                batch["labels"] = torch.from_numpy(np.ascontiguousarray(split.labels[rows]))
            yield batch

    def subsets(self, dataset: Dataset[TextSplit], recipe: Recipe) -> Subsets:
        """Return rows of train; closed forms are fitted on as many as hold the recipe's number of tokens."""
        rows, tokens = dataset.train, recipe.compress.fitted_tokens

        def fitted(order: np.ndarray) -> tuple[int, int]:
            reached = np.cumsum(rows.lengths[order])
            warm, trial = (1 + int(np.searchsorted(reached, n)) for n in (tokens, min(tokens, TRIAL_TOKENS)))
            return warm, trial

        most = max(recipe.analyse.maximum_rows, recipe.analyse.minimum_rows)
        return draw_subsets(len(rows), recipe, fitted, most)

    def cut_vocabulary(
        self, dataset: Dataset[TextSplit], recipe: Recipe, data: Path | None, folder: Path
    ) -> FewerTokens[TextSplit]:
        """Write a tokenizer with the tokens that the rows of train use, and read all rows with it."""
        used, least = Ragged.of(dataset.learnt.ids), recipe.compress.vocabulary
        assert least is not None, "the recipe cuts the vocabulary"
        tokenizer = dataset.preprocessing
        kept = kept_tokens(tokenizer, np.bincount(used.flat), least)
        cut_tokenizer(tokenizer, kept, folder)
        found = self.load(recipe, data, kept=folder)
        changes = {
            name: changed_tokens(split.ids, found.splits[name].ids, kept, tokenizer.unk_token_id)
            for name, split in dataset.splits.items()
        }
        return FewerTokens(found, kept, VocabularyRecord(len(tokenizer), len(kept), least, changes))

    def preprocessing_of(self, spec: Spec, tokenizer: Any) -> Any | None:
        """Return the tokenizer."""
        return tokenizer

    def save_preprocessing(self, dataset: Dataset[TextSplit], folder: Path) -> None:
        """Write the tokenizer's files."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            dataset.preprocessing.save_pretrained(folder)
        except Exception as err:  # the Rust tokenizers raise plain exceptions, a full disk among them
            raise RunDirError(
                f"cannot write the tokenizer into {folder}: {err}", "free space, or another --out"
            ) from err

    def verification_batches(
        self, batches: Iterable[Mapping[str, Tensor]], spec: Spec, max_length: int | None = None
    ) -> list[Batch]:
        """Return `variations` of held-out batches, with the inputs of the spec."""
        longest = min(n for n in (max_length, spec.max_length) if n is not None)
        names = [item.name for item in spec.inputs]
        found = variations(batches, getattr(spec, "pad_id", 0), longest)
        return [{name: batch[name] for name in names if name in batch} for batch in found]

    def check_preprocessing(self, dataset: Dataset[TextSplit], folder: Path, spec: Spec) -> tuple[str, ...]:
        """Compare what the exported tokenizer makes of a few raw texts with what training was fed; note nothing."""
        rows, samples = dataset.validation.take(np.array([s.row for s in dataset.samples])), dataset.samples
        fed = padded(rows.ids, rows.type_ids, Special.of(dataset.preprocessing))
        names = [item.name for item in spec.inputs]
        compare_texts(folder, samples, {name: fed[name].numpy() for name in names}, names)
        return ()

    def predictor(self, folder: Path, record: Exported, run: Callable[[Batch], np.ndarray]) -> Predictor:
        """Return what answers texts with an exported folder."""
        return TextPredictor(load_tokenizer(str(folder)), record, run, self.predictions)


class TextPredictor:
    """A model of texts that answers them as its task does."""

    def __init__(
        self, tokenizer: Any, record: Exported, run: Callable[[Batch], np.ndarray], predictions: Predictions
    ) -> None:
        self.tokenizer, self.labels, self.max_length, self.run = tokenizer, record.labels, record.max_length, run
        self.predictions = predictions

    def predict(self, items: Texts, batch_size: int = 32) -> Prediction:
        """Answer texts or pairs of texts; an empty list gives outputs (0, labels)."""
        if isinstance(items, str):
            raise UserError("predict takes a list of texts", "predict([text])")
        parts = [self._outputs(list(items[i : i + batch_size])) for i in range(0, len(items), batch_size)]
        return joined(parts, self.labels, self.predictions)

    def _outputs(self, texts: list[Any]) -> np.ndarray:
        columns = [list(column) for column in zip(*texts, strict=True)] if isinstance(texts[0], tuple) else [texts]
        ids, types = encode(self.tokenizer, columns, self.max_length)
        if not all(ids):
            raise UserError(f"text {[bool(row) for row in ids].index(False)} has no tokens", "leave empty texts out")
        return self.run(padded(ids, types, Special.of(self.tokenizer)))


def _samples(texts: pa.Table, split: TextSplit) -> tuple[Sample, ...]:
    """Return a few rows as texts: the first ones, the longest and the shortest."""
    lengths = np.fromiter(map(len, split.ids), np.int64)
    rows = sorted({*range(min(SAMPLES, len(lengths))), int(lengths.argmax()), int(lengths.argmin())})
    return tuple(Sample(row, f"row {row}", tuple(texts.slice(row, 1).to_pylist()[0].values())) for row in rows)
