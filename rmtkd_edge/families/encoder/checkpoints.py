"""From a checkpoint, transformers' or our own, to an `Encoder` with the data's labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmtkd_edge.config.settings import Head
from rmtkd_edge.errors import UserError, reason, some
from rmtkd_edge.families.base import call
from rmtkd_edge.families.encoder.config import ENDINGS
from rmtkd_edge.families.encoder.fold import fold
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.names import names_from_transformers, pooler_of, spec_from_config
from rmtkd_edge.families.encoder.sentence_files import pooling_of
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
TRIAL_ROWS, TRIAL_TOKENS = 3, 16  # of random ids, the last row padded, on which an encoder is compared with its source
CAUSES = (
    "a class with a forward of its own, other activations, norms, positions or token types than its config.json says "
    "are not supported"
)


def from_transformers(model: Any, labels: Sequence[str] | None = None, problem: str | None = SINGLE_LABEL) -> Encoder:
    """Return an `Encoder` that computes what a transformers model does (weights are copied).

    Of a sequence or token classifier these are its logits, of an encoder alone the last states, of which an embedding
    is the mean, normalised.

    Args:
        problem: what it must be for, None for anything.

    Raises:
        UserError: its type is not supported, it is for another problem, a weight is missing, or the outputs are others.
    """
    refuse_other_problems(model.config.problem_type, problem)
    head = _head_of_class(type(model))
    names = () if head == "embedding" else labels or config_labels(model.config)
    spec = spec_from_config(model.config, names, head)
    theirs: dict[str, Tensor] = model.state_dict()
    encoder = Encoder(spec)
    state = {}
    for ours, name in names_from_transformers(spec).items():
        for part in ("weight", "bias"):
            if f"{name}.{part}" in theirs:
                state[f"{ours}.{part}"] = theirs[f"{name}.{part}"].detach().clone().float()
    missing = [name for name in encoder.state_dict() if name not in state]
    if missing:
        raise UserError(
            f"the checkpoint has no weights for {', '.join(missing[:5])}",
            "is it a sequence classifier of a supported type?",
        )
    encoder.load_state_dict(state)
    _prove_same(encoder, model)
    return encoder


def _head_of_class(kind: type) -> Head:
    """Return the head of a class of transformers' or of one that is made from it; `row` for any other."""
    if any(made.__name__.endswith("ForTokenClassification") for made in kind.__mro__):
        return "token"
    return "embedding" if kind.__name__.endswith("Model") and "For" not in kind.__name__ else "row"


def _prove_same(encoder: Encoder, model: Any) -> None:
    """Raise UserError where an encoder gives other outputs than the model that it was made from."""
    spec = encoder.spec
    length = min(TRIAL_TOKENS, spec.max_length)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, spec.vocab, (TRIAL_ROWS, length), generator=generator)
    ids[ids == spec.pad_id] = (spec.pad_id + 1) % spec.vocab
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["input_ids"][-1, length // 2 :], batch["attention_mask"][-1, length // 2 :] = spec.pad_id, 0
    if spec.type_vocab > 1:
        batch["token_type_ids"] = torch.arange(length).ge(length // 3).long().expand_as(ids)
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    theirs = model if plain and not model.training else copy.deepcopy(model).cpu().float().eval()
    states = spec.head == "embedding"
    inputs = [batch.get(item.name) for item in spec.inputs]
    check_same(
        lambda: encoder.eval().states(*inputs) if states else call(encoder.eval(), batch),  # type: ignore[arg-type]
        lambda: theirs(**batch).last_hidden_state if states else theirs(**batch).logits,
        f"the {type(model).__name__}",
        "a plain encoder",
        CAUSES,
    )
    encoder.train()


def pretrained(source: str, labels: Sequence[str], problem: str | None, head: Head = "row") -> tuple[Encoder, bool]:
    """Return the model of a hub id or a folder, and whether its head is trained already.

    A folder is a transformers checkpoint, an exported folder, or a model of a run (RUN/compress/teacher).

    Args:
        problem: what it must be for, None for anything.

    Raises:
        UserError: it cannot be loaded, is for another problem, or knows other labels.
    """
    folder = Path(source)
    _refuse_folder(folder)
    ours = own_model(folder)
    if ours is not None:
        if (folder / CONFIG).is_file():  # of an exported folder
            refuse_other_problems(read_json_file(folder / CONFIG, INTACT).get("problem_type"), problem)
        if not isinstance(ours, Encoder):
            raise UserError(f"{folder} holds no encoder", "set model.family to that of the source")
        refuse_other_head(source, ours.spec.head, head, "text")
        return _with_labels(fold(ours), ours.spec.labels, labels, source), True
    config = _loaded("AutoConfig", source)
    refuse_other_problems(config.problem_type, problem)
    spec_from_config(config, labels)  # refuse an unsupported type before its weights are read
    _refuse_other_class(config, source, head)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    model, info = _loaded(
        LOADERS[head],
        source,
        **({"num_labels": len(labels), **names} if labels else {}),
        ignore_mismatched_sizes=True,  # judged below
        output_loading_info=True,
        use_safetensors=True,  # other files are unpickled
    )
    trained = _has_head(config, info, len(labels), source, head)
    encoder = from_transformers(model, labels, problem)
    if head == "embedding":
        pooling, normalised = pooling_of(source)
        encoder.spec = replace(encoder.spec, pooling=pooling, normalised=normalised)
        return encoder, True
    return (_with_labels(encoder, config_labels(config), labels, source) if trained else encoder), trained


def _refuse_folder(folder: Path) -> None:
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


def _refuse_other_class(config: Any, source: str, head: Head) -> None:
    """Raise UserError for a checkpoint of a class whose head is another than the task's, and was trained."""
    for name in config.architectures or []:
        for other in ("row", "token"):
            if name.endswith(ENDINGS[other]):
                refuse_other_head(source, other, head, "text")
        if head == "embedding" and "For" in name:
            raise UserError(
                f"`{source}` is a {name}, whose states were not trained as embeddings",
                "give a model of sentence-transformers, or an encoder alone, as model.source",
            )


def _has_head(config: Any, info: dict[str, Any], count: int, source: str, head: Head) -> bool:
    """Return whether the weights hold a trained head; raise UserError where they do not fit."""
    pooler, classifier, _ = pooler_of(config.model_type)
    if head != "row":
        classifier = "classifier"  # and a pooler, where there is one, is not read
    missing = sorted(info["missing_keys"])
    shapes = {key: there for key, there, _ in info["mismatched_keys"]}
    parts = (f"{pooler}.", f"{classifier}.", "pooler.")
    odd = [key for key in [*missing, *sorted(shapes)] if not key.startswith(parts)]
    if odd or (head == "row" and any(key.startswith(parts[0]) for key in shapes)):
        raise UserError(f"`{source}` lacks weights, or has them in other shapes: {some(odd or sorted(shapes))}", INTACT)
    others = [name for name in config.architectures or [] if "For" in name and ENDINGS[head] not in name]
    if missing or others:
        return False
    if shapes:
        raise other_size(source, shapes[f"{classifier}.bias"][0], count)
    return True


def _with_labels(encoder: Encoder, theirs: Sequence[str], wanted: Sequence[str], source: str) -> Encoder:
    """Bring the classifier's rows into the order of the data's labels, in place, and return the encoder."""
    if encoder.spec.head == "embedding":
        return encoder
    assert encoder.classifier is not None, "what gives labels has a classifier"
    reorder(encoder.classifier, label_order(theirs, wanted, source))
    encoder.spec = replace(encoder.spec, labels=tuple(wanted))
    return encoder


def _loaded(kind: str, source: str, **options: Any) -> Any:
    """Return what transformers' `kind.from_pretrained` loads; its many errors become one that says what to do."""
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(source, **options)
    except Exception as err:  # transformers raises its own, its validators', the hub's and assertion errors alike
        raise UserError(
            f"cannot load a model from `{source}`: {reason(err)}",
            "give a local folder with config.json and model.safetensors as model.source",
        ) from err
