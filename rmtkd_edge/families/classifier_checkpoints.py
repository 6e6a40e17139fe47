"""From a checkpoint, transformers' or our own, to a family's model with the head of the task and the data's labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor

from rmtkd_edge import plugins
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.settings import Head
from rmtkd_edge.errors import DataError, UserError, reason, some
from rmtkd_edge.families.base import M, call, find_family
from rmtkd_edge.families.sources import (
    INTACT,
    SINGLE_LABEL,
    check_same,
    config_labels,
    label_order,
    other_size,
    own_model,
    refuse_other_head,
    refuse_other_problems,
    reorder,
)
from rmtkd_edge.run.layout import CONFIG
from rmtkd_edge.run.records.base import read_json_file

ADAPTER = "adapter_config.json"
LOADERS: dict[Head, str] = {
    "row": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "embedding": "AutoModel",
}
ENDINGS: dict[Head, str] = {"row": "ForSequenceClassification", "token": "ForTokenClassification", "embedding": "Model"}
TRIAL_ROWS = 3  # of random ids, the last row padded, on which a model is compared with its source


@dataclass(frozen=True)
class Classifiers(Generic[M]):
    """How a family reads transformers' models.

    Attributes:
        kind: what an error calls its models.
        causes: what weights and settings do not tell, which may be why outputs differ.
        spec_of: the shape that a config describes for the data's labels and a head; raises UserError for one that is
            not known.
        state_of: a state dict, of a shape, from weights under transformers' names.
        parts: the names of pooler and classifier of a config.
        trial_tokens: length of the random rows that a model of a shape is compared with its source on.
    """

    family: str
    kind: str
    causes: str
    spec_of: Callable[[Any, Sequence[str], Head], Any]
    state_of: Callable[[Any, Mapping[str, Tensor]], dict[str, Tensor]]
    parts: Callable[[Any], tuple[str, str]]
    trial_tokens: Callable[[Any], int]

    def from_transformers(
        self, model: Any, labels: Sequence[str] | None = None, problem: str | None = SINGLE_LABEL
    ) -> M:
        """Return a model that computes what a transformers model does (weights are copied).

        Of a sequence or token classifier these are its logits, of an encoder alone the last states, of which an
        embedding is the mean, normalised.

        Args:
            problem: what it must be for, None for anything.

        Raises:
            UserError: its type is not supported, it is for another problem, a weight is missing, or the outputs are
                others.
        """
        refuse_other_problems(model.config.problem_type, problem)
        head = _head_of_class(type(model))
        if head not in find_family(self.family).heads:
            raise UserError(f"a {type(model).__name__} has no head of the family {self.family}", "give a classifier")
        names = () if head == "embedding" else labels or config_labels(model.config)
        spec = self.spec_of(model.config, names, head)
        ours: M = find_family(self.family).build(spec)
        state = self.state_of(spec, {name: t.detach().clone().float() for name, t in model.state_dict().items()})
        missing = [name for name in ours.state_dict() if name not in state]
        if missing:
            raise UserError(
                f"the checkpoint has no weights for {', '.join(missing[:5])}",
                "is it a sequence classifier of a supported type?",
            )
        ours.load_state_dict(state)
        self._prove_same(ours, model)
        return ours

    def _prove_same(self, ours: Any, model: Any) -> None:
        """Raise UserError where a model gives other outputs than the one that it was made from."""
        batch = trial(ours.spec, self.trial_tokens(ours.spec))
        inputs = [batch.get(item.name) for item in ours.spec.inputs]
        states = ours.spec.head == "embedding"
        check_same(
            lambda: ours.eval().states(*inputs) if states else call(ours.eval(), batch),
            lambda: getattr(in_float32(model)(**batch), "last_hidden_state" if states else "logits"),
            f"the {type(model).__name__}",
            self.kind,
            self.causes,
        )
        ours.train()

    def pretrained(
        self, source: str, labels: Sequence[str], problem: str | None, head: Head = "row", embedder: bool = False
    ) -> tuple[M, bool]:
        """Return the model of a hub id or a folder, and whether its head is trained already.

        A folder is a transformers checkpoint, an exported folder, or a model of a run (RUN/compress/teacher).

        Args:
            problem: what it must be for, None for anything.
            embedder: the source says that it gives embeddings, whatever class its weights were saved from.

        Raises:
            UserError: it cannot be loaded, is for another problem, or knows other labels.
        """
        folder = Path(source)
        refuse_folder(folder)
        own: Any = own_model(folder)
        if own is not None:
            if (folder / CONFIG).is_file():  # of an exported folder
                refuse_other_problems(read_json_file(folder / CONFIG, INTACT).get("problem_type"), problem)
            if own.spec.family != self.family:
                raise UserError(
                    f"{folder} holds no {self.family}",
                    f"set model.family = {own.spec.family}, the source's family",
                )
            refuse_other_head(source, own.spec.head, head, "text")
            return _with_labels(find_family(self.family).fold(own), own.spec.labels, labels, source), True
        config = loaded("AutoConfig", source)
        if config.model_type != self.family and config.model_type in plugins.names("families"):
            raise UserError(f"`{source}` is no {self.family}", f"set model.family = {config.model_type}")
        refuse_other_problems(config.problem_type, problem)
        self.spec_of(config, labels, head)  # refuse an unsupported type before its weights are read
        if not embedder:
            _refuse_other_class(config, source, head)
        model, info = loaded(
            LOADERS[head],
            source,
            **({"num_labels": len(labels), **label_names(labels)} if labels else {}),
            ignore_mismatched_sizes=True,  # judged below
            output_loading_info=True,
            use_safetensors=True,  # other files are unpickled
        )
        trained = self._has_head(config, info, len(labels), source, head)
        ours = self.from_transformers(model, labels, problem)
        return (_with_labels(ours, config_labels(config), labels, source) if trained else ours), trained

    def _has_head(self, config: Any, info: dict[str, Any], count: int, source: str, head: Head) -> bool:
        """Return whether the weights hold a trained head; raise UserError where they do not fit."""
        pooler, classifier = self.parts(config)
        if head != "row":
            classifier = "classifier"  # and a pooler, where there is one, is not read
        missing = sorted(info["missing_keys"])
        shapes = {key: there for key, there, _ in info["mismatched_keys"]}
        parts = (f"{pooler}.", f"{classifier}.", *(() if head == "row" else ("pooler.",)))
        odd = [key for key in [*missing, *sorted(shapes)] if not key.startswith(parts)]
        if odd or (head == "row" and any(key.startswith(parts[0]) for key in shapes)):
            raise UserError(
                f"`{source}` lacks weights, or has them in other shapes: {some(odd or sorted(shapes))}", INTACT
            )
        if head == "embedding":
            return True
        others = [name for name in config.architectures or [] if "For" in name and ENDINGS[head] not in name]
        if missing or others:
            return False
        if shapes:
            raise other_size(source, shapes[f"{classifier}.bias"][0], count)
        return True


def _head_of_class(kind: type) -> Head:
    """Return the head of a class of transformers' or of one that is made from it; `row` for any other."""
    classifiers: tuple[Head, ...] = ("token", "row")
    for made in kind.__mro__:
        for head in classifiers:
            if made.__name__.endswith(ENDINGS[head]):
                return head
    return "embedding" if kind.__name__.endswith(ENDINGS["embedding"]) and "For" not in kind.__name__ else "row"


def _refuse_other_class(config: Any, source: str, head: Head) -> None:
    """Raise UserError for a checkpoint of a class whose head is another than the task's, and was trained."""
    trained: tuple[Head, ...] = ("row", "token")
    for name in config.architectures or []:
        for other in trained:
            if name.endswith(ENDINGS[other]):
                refuse_other_head(source, other, head, "text")
        if head == "embedding" and "For" in name:
            raise UserError(
                f"`{source}` is a {name}, whose states were not trained as embeddings",
                "give a model of sentence-transformers, or an encoder alone, as model.source",
            )


def in_float32(model: Any) -> Any:
    """Return a transformers model in float32, on the CPU, in eval mode: itself where it is that already."""
    if any(p.dtype != torch.float32 for p in model.parameters()):
        # a cast rounds what no file holds too, such as the frequencies of rotary positions; a new model has them anew
        with torch.random.fork_rng(devices=[]):
            whole = type(model)(copy.deepcopy(model.config)).float()
        whole.load_state_dict(model.state_dict())
        return whole.eval()
    plain = not model.training and all(p.device.type == "cpu" for p in model.parameters())
    return model if plain else copy.deepcopy(model).cpu().eval()


def trial(spec: Any, length: int) -> dict[str, Tensor]:
    """Return a batch of random ids, the second half of its last row padding, with two token types where there are."""
    length = min(length, spec.max_length)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, spec.vocab, (TRIAL_ROWS, length), generator=generator)
    ids[ids == spec.pad_id] = (spec.pad_id + 1) % spec.vocab
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["input_ids"][-1, length // 2 :], batch["attention_mask"][-1, length // 2 :] = spec.pad_id, 0
    if any(item.name == "token_type_ids" for item in spec.inputs):
        batch["token_type_ids"] = torch.arange(length).ge(length // 3).long().expand_as(ids)
    return batch


def refuse_folder(folder: Path) -> None:
    """Raise UserError for folders that hold something near to a model."""
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"`{folder}` holds a PEFT adapter, not a whole model",
            "merge it: AutoPeftModelForSequenceClassification.from_pretrained(FOLDER).merge_and_unload()"
            ".save_pretrained('merged'), with the tokenizer's files; then model.source = 'merged'",
        )
    if any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"`{folder}` holds its weights as pickled .bin files, which are not opened",
            'convert them where you trust them: python -c "from transformers import AutoModelForSequenceClassification '
            f"as M; M.from_pretrained('{folder}').save_pretrained('safe')\", add the tokenizer's files; then "
            "model.source = 'safe'",
        )


def loaded(kind: str, source: str, **options: Any) -> Any:
    """Return what transformers' `kind.from_pretrained` loads; its many errors become one that says what to do."""
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(source, **options)
    except Exception as err:  # transformers raises its own, its validators', the hub's and assertion errors alike
        raise UserError(
            f"cannot load a model from `{source}`: {reason(err)}",
            "give a local folder with config.json and model.safetensors as model.source",
        ) from err


def label_names(labels: Sequence[str]) -> dict[str, Any]:
    """Return what a transformers config says of labels."""
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def check_fits(recipe: Recipe, spec: Any, tokenizer: Any) -> None:
    """Raise DataError where a model has too few positions or embeddings for the data."""
    positions = spec.max_length
    if recipe.task.max_length > positions:
        raise DataError(
            f"task.max_length is {recipe.task.max_length}, the model has {positions} positions",
            f"--set task.max_length={positions}",
        )
    if (tokens := token_count(tokenizer)) > spec.vocab:
        raise DataError(
            f"the tokenizer has {tokens} tokens, the model only {spec.vocab} embeddings",
            "set model.tokenizer to the one that belongs to model.source",
        )


def token_count(tokenizer: Any) -> int:
    """Return the embeddings that a tokenizer's ids need; there may be gaps between them."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))


def _with_labels(model: Any, theirs: Sequence[str], wanted: Sequence[str], source: str) -> Any:
    """Bring the classifier's rows into the order of the data's labels, in place, and return the model."""
    if model.spec.head != "embedding":
        reorder(model.classifier, label_order(theirs, wanted, source))
        model.spec = replace(model.spec, labels=tuple(wanted))
    return model
