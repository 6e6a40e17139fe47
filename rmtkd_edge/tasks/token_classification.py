"""Token classification: a label for every word, such as named entities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rmtkd_edge.config.settings import Head
from rmtkd_edge.config.task import Task as TaskSettings
from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.spectral.seeded import row_contrasts, row_signs
from rmtkd_edge.tasks import entity_metrics as metrics
from rmtkd_edge.tasks.base import Batch, Dataset, Exported, Prediction, Task
from rmtkd_edge.tasks.entity_metrics import IGNORED
from rmtkd_edge.tasks.labelled import at_least_float32
from rmtkd_edge.tasks.reading.label_sets import label_set_names
from rmtkd_edge.tasks.reading.sequences import Special, padded
from rmtkd_edge.tasks.reading.tokenizers import load_tokenizer
from rmtkd_edge.tasks.reading.usage import HubTask, token_clients
from rmtkd_edge.tasks.reading.words import encode_words, joined_words, on_tokens, word_labels
from rmtkd_edge.tasks.texts import TextSplit, TextTask

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor


class TokenClassification(TextTask):
    """A label a word, which its first token carries; a split's labels are int16 (n, T), -100 at all other tokens.

    Batches have the `codes` of the labels at every row, see `entity_metrics`.
    """

    name = "token-classification"
    head: Head = "token"
    hub = HubTask("token-classification", None, token_clients)
    known_metrics = metrics.KNOWN
    percent_metrics = metrics.KNOWN
    prediction: Literal["argmax"] = "argmax"
    required_keys: Mapping[str, str] = {"text": '["tokens"]'}
    cut_vocabulary = None  # type: ignore[assignment]  # with other tokens the outputs of a row have another length

    # data
    def texts(self, task: TaskSettings, table: pa.Table, where: str) -> pa.Table:
        """Return a table whose words are joined by spaces; raise DataError where a row has no list of words."""
        if len(task.text) > 1:
            raise DataError(
                f"task.text names {', '.join(task.text)}, and words are one column", f'task.text = ["{task.text[0]}"]'
            )
        return joined_words(task, table, where)

    def names(self, task: TaskSettings, train: pa.Table) -> list[str]:
        """Return the names of the labels in label order."""
        return label_set_names(task, train)

    def values(self, task: TaskSettings, table: pa.Table, where: str, names: Sequence[str]) -> np.ndarray:
        """Return the place of every word's label in `names`, int16 (n, words), -100 after the last word."""
        return word_labels(task, table, where, names)

    def encoded(self, task: TaskSettings, table: pa.Table, where: str, tokenizer: Any, values: np.ndarray) -> TextSplit:
        """Return the rows with labels at the first token of every word that is not cut off."""
        ids, words = encode_words(tokenizer, table[task.text[0]].to_pylist(), task.max_length, where)
        return TextSplit(ids, None, on_tokens(words, values))

    def label_notes(
        self, task: TaskSettings, train: pa.Table, names: Sequence[str], values: Mapping[str, np.ndarray]
    ) -> tuple[str, ...]:
        """Return lines on labels that a split has not."""
        return self.absent(names, values)

    def lost(self, values: Mapping[str, np.ndarray], splits: Mapping[str, TextSplit]) -> tuple[str, ...]:
        """Return a line on the labelled words of each split that no token carries."""
        notes = []
        for role, split in splits.items():
            words, kept = (int(np.count_nonzero(np.asarray(found) >= 0)) for found in (values[role], split.labels))
            if kept < words:
                notes.append(
                    f"{words - kept} of {words} words of {role} are beyond task.max_length or have no token: they "
                    "count in no metric"
                )
        return tuple(notes)

    def counts(self, labels: Sequence[str], values: np.ndarray) -> dict[str, int]:
        """Return the words of every label by its name."""
        found = np.bincount(values[values >= 0].astype(np.int64), minlength=len(labels))
        return dict(zip(labels, found.tolist(), strict=True))

    def told(self, labels: Sequence[str], value: Any) -> str:
        """Return the labels of a row's words."""
        return " ".join(labels[i] for i in value if i >= 0)

    def batches(
        self, dataset: Dataset[TextSplit], split: TextSplit, batch_size: int, seed: int | None
    ) -> Iterator[Batch]:
        """Yield padded batches, `labels` int64 (B, T) and the `codes` of the labels (B, labels) among them."""
        import torch

        codes = torch.tensor(metrics.label_codes(dataset.labels))
        for batch in super().batches(dataset, split, batch_size, seed):
            if "labels" in batch:
                length = batch["input_ids"].shape[1]
                batch["labels"] = batch["labels"][:, :length].long()
                batch["codes"] = codes.repeat(len(batch["labels"]), 1)
            yield batch

    def predictor(self, folder: Path, record: Exported, run: Callable[[Batch], np.ndarray]) -> TokenPredictor:
        """Return what labels words with an exported folder."""
        return TokenPredictor(load_tokenizer(str(folder)), record, run)

    # training
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross entropy of the words' first tokens."""
        from torch.nn import functional as F

        labels = batch["labels"].flatten()
        summed = F.cross_entropy(outputs.float().flatten(0, 1), labels, ignore_index=IGNORED, reduction="sum")
        return summed / (labels != IGNORED).sum().clamp_min(1)

    def divergence(self, old: Tensor, new: Tensor, temperature: float = 1.0, batch: Batch | None = None) -> Tensor:
        """Return T^2 KL(old || new) of softmax(logits / T), mean over the tokens that count."""
        from torch.nn import functional as F

        p_new, p_old = (F.log_softmax(at_least_float32(z) / temperature, dim=-1) for z in (new, old))
        found = F.kl_div(p_new, p_old, log_target=True, reduction="none").sum(-1)
        counted = _counted(found, batch)
        return temperature**2 * (found * counted).sum() / counted.sum().clamp_min(1)

    def probe(self, outputs: Tensor, batch: Batch, seed: int) -> Tensor:
        """Return s v^T z summed over the tokens that count, for random v of each row that sum to zero, and signs s."""
        import torch

        rows, (_, length, labels) = batch["index"].cpu().numpy(), outputs.shape
        # seed and seed + 1 draw the sampled tokens; these draws are independent of them
        drawn = row_contrasts(seed + 2, rows, labels)[:, None] * row_signs(seed + 3, rows, length)[..., None]
        found = (outputs * torch.from_numpy(drawn).to(outputs)).sum(-1)
        return (found * _counted(found, batch)).sum()

    # figures
    def targets(self, batch: Batch) -> np.ndarray:
        """Return the labels of the tokens, then the codes of the labels: int64 (B, T + labels)."""
        if "codes" not in batch:
            raise DataError(
                "the batches have labels and no `codes`, which say what a label's name does of entities",
                "add them: torch.tensor(rmtkd_edge.tasks.entity_metrics.label_codes(labels)).repeat(rows, 1)",
            )
        labels = np.asarray(batch["labels"].cpu(), np.int64)
        return np.concatenate([labels, np.asarray(batch["codes"][:1].cpu()).repeat(len(labels), 0)], axis=1)

    def metrics(self, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
        """Return every known metric that the rows allow."""
        return metrics.entity_metrics(_counts(outputs, targets))

    def baseline(self, targets: Sequence[np.ndarray], outputs: int) -> dict[str, float]:
        """Return the best metrics of always predicting one label; none where there is but one label."""
        lengths = [part.shape[1] - outputs for part in targets]
        there = np.unique(
            np.concatenate([part[:, :n][part[:, :n] != IGNORED] for part, n in zip(targets, lengths, strict=True)])
        )
        if len(there) < 2:
            return {}
        found = []
        for label in there:
            constant = np.eye(outputs, dtype=np.float32)[label]
            answers = [np.broadcast_to(constant, (len(t), n, outputs)) for t, n in zip(targets, lengths, strict=True)]
            found.append(self.metrics(answers, targets))
        return {name: max(each[name] for each in found) for name in found[0]}

    def why_missing(self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> str:
        """Return why `metrics` leaves a metric out, an empty text where it does not."""
        return metrics.why_missing(metric, _counts(outputs, targets))

    def interval(
        self, metric: str, outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], seed: int = 0
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric over rows, None where they do not allow it."""
        return metrics.interval(metric, _counts(outputs, targets), seed)

    def agreement(self, a: np.ndarray, b: np.ndarray, batch: Batch | None = None) -> float:
        """Return the share of rows with the same largest logit at every token that counts."""
        import torch

        counted = np.asarray(_counted(torch.from_numpy(a[..., 0]), batch).cpu()) > 0
        return float(((a.argmax(-1) == b.argmax(-1)) | ~counted).all(1).mean())


class TokenPredictor:
    """A model of texts that labels their words."""

    def __init__(self, tokenizer: Any, record: Exported, run: Callable[[Batch], np.ndarray]) -> None:
        self.tokenizer, self.labels, self.max_length, self.run = tokenizer, record.labels, record.max_length, run

    def predict(self, items: Sequence[Any], batch_size: int = 32) -> Prediction:
        """Label texts, whose words are parted by spaces, or lists of words.

        Returns:
            Outputs (n, words, labels), NaN after the last word and where a text was cut off, and for each item its
            words' labels, None where it was cut off.
        """
        if isinstance(items, str):
            raise UserError("predict takes a list of texts, or of lists of words", "predict([text])")
        if not all(isinstance(item, Sequence) and all(isinstance(word, str) for word in item) for item in items):
            raise UserError("an item is neither a text nor a list of words", 'predict(["a text", ["its", "words"]])')
        rows = [item.split() if isinstance(item, str) else list(item) for item in items]
        if odd := [i for i, words in enumerate(rows) if not words or not all(words) or any(" " in w for w in words)]:
            raise UserError(f"item {odd[0]} has no words, or one that is empty or has a space in it", "leave it out")
        whole = np.full((len(rows), max(map(len, rows), default=0), len(self.labels)), np.nan, np.float32)
        for start in range(0, len(rows), batch_size):
            texts = [" ".join(words) for words in rows[start : start + batch_size]]
            ids, words = encode_words(self.tokenizer, texts, self.max_length, "the texts")
            found = self.run(padded(ids, None, Special.of(self.tokenizer)))
            for i, numbers in enumerate(words):
                for place, word in enumerate(numbers):
                    if word >= 0:
                        whole[start + i, word] = found[i, place]
        seen = ~np.isnan(whole[..., 0])
        named = [
            [self.labels[whole[i, j].argmax()] if seen[i, j] else None for j in range(len(words))]
            for i, words in enumerate(rows)
        ]
        return Prediction(whole, named)


def _counts(outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([metrics.counts(o, t) for o, t in zip(outputs, targets, strict=True)])


def _counted(tokens: Tensor, batch: Batch | None) -> Tensor:
    """Return 1 where a token (B, T) counts, else 0: those with labels, else all that are text, else all."""
    import torch

    if batch is None:
        return torch.ones_like(tokens)
    if "labels" in batch:
        return (batch["labels"] != IGNORED).to(tokens)
    mask = batch["attention_mask"].bool()
    if "special_tokens_mask" in batch:
        mask = mask & ~batch["special_tokens_mask"].bool()
    return mask.to(tokens)


TASK: Task[TextSplit] = TokenClassification()
