"""From a checkpoint, transformers' or our own, to an `Encoder` with the data's labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmtkd_edge.errors import UserError, reason, some
from rmtkd_edge.families.base import find_family
from rmtkd_edge.families.encoder.fold import fold
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.names import names_from_transformers, pooler_of, spec_from_config
from rmtkd_edge.families.store import assemble, load_folder, read_weights, spec_of
from rmtkd_edge.run.layout import CONFIG, EXPORT_RECORD, MANIFEST, PREPROCESSING, SHAPE, TEACHER
from rmtkd_edge.run.records.base import from_json, read_json_file
from rmtkd_edge.run.records.export import ExportRecord

ADAPTER = "adapter_config.json"
PLACEHOLDER = re.compile(r"LABEL_\d+", re.IGNORECASE)  # what transformers calls a label that nobody named
INTACT = "use a complete checkpoint"


def from_transformers(model: Any, labels: Sequence[str] | None = None) -> Encoder:
    """Return an `Encoder` that computes the same logits as a transformers sequence classifier (weights are copied).

    Raises UserError for an unsupported model type or where a weight is missing.
    """
    spec = spec_from_config(model.config, labels or _label_names(model.config))
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
    return encoder


def pretrained(source: str, labels: Sequence[str]) -> tuple[Encoder, bool]:
    """Return the model of a hub id or a folder, and whether its classifier is trained already.

    A folder is a transformers checkpoint, an exported folder, or a model of a run (RUN/compress/teacher).

    Raises:
        UserError: it cannot be loaded, is no model with one label a row, or knows other labels.
    """
    folder = Path(source)
    _refuse_folder(folder)
    ours = _own(folder)
    if ours is not None:
        return _with_labels(ours, ours.spec.labels, labels, source), True
    config = _loaded("AutoConfig", source)
    spec_from_config(config, labels)  # refuse an unsupported type before its weights are read
    model, info = _loaded(
        "AutoModelForSequenceClassification",
        source,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        ignore_mismatched_sizes=True,  # judged below
        output_loading_info=True,
        use_safetensors=True,  # other files are unpickled
    )
    trained = _has_classifier(config, info, len(labels), source)
    encoder = from_transformers(model, labels)
    return (_with_labels(encoder, _label_names(config), labels, source) if trained else encoder), trained


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
    if (folder / MANIFEST).is_file():
        raise UserError(
            f"`{folder}` is a run directory, which holds several models",
            f"--set model.source={folder / TEACHER} --set model.tokenizer={folder / PREPROCESSING}",
        )


def _own(folder: Path) -> Encoder | None:
    """Return the folded encoder of a folder that this package wrote, None for any other."""
    if (folder / SHAPE).is_file():
        model = load_folder(folder)
    else:
        config = read_json_file(folder / CONFIG, INTACT) if (folder / CONFIG).is_file() else None
        ours = config.get("rmtkd") if isinstance(config, dict) else None
        if not isinstance(ours, dict) or "spec" not in ours:
            return None
        spec = spec_of(ours["spec"], folder / CONFIG, INTACT)
        record = from_json(ExportRecord, read_json_file(folder / EXPORT_RECORD, INTACT), folder / EXPORT_RECORD)
        path = folder / record.weights
        tensors = read_weights(path, record.files.get(record.weights), INTACT)
        model = assemble(spec, find_family(spec.family).from_tensors(spec, tensors), path, INTACT)
    if not isinstance(model, Encoder):
        raise UserError(f"{folder} holds no encoder", "set model.family to that of the source")
    return fold(model)


def _has_classifier(config: Any, info: dict[str, Any], count: int, source: str) -> bool:
    """Return whether the weights hold a trained classifier; raise UserError where they do not fit."""
    pooler, classifier, _ = pooler_of(config.model_type)
    missing = sorted(info["missing_keys"])
    shapes = {key: there for key, there, _ in info["mismatched_keys"]}
    head = (f"{pooler}.", f"{classifier}.")
    odd = [key for key in [*missing, *sorted(shapes)] if not key.startswith(head)]
    if odd or any(key.startswith(head[0]) for key in shapes):
        raise UserError(f"`{source}` lacks weights, or has them in other shapes: {some(odd or sorted(shapes))}", INTACT)
    others = [name for name in config.architectures or [] if "For" in name and "ForSequenceClassification" not in name]
    if missing or others:
        return False
    if shapes:
        found = shapes[f"{classifier}.bias"][0]
        what = "gives one score (a regression, or a cross-encoder)" if found == 1 else f"classifies {found} labels"
        raise UserError(f"`{source}` {what}, the data have {count}", "check task.labels and task.label")
    return True


def _label_names(config: Any) -> list[str]:
    """Return a checkpoint's labels in their order; raise UserError for numbers with gaps."""
    numbers = sorted(config.id2label)
    if numbers != list(range(len(numbers))):
        raise UserError(
            f"the checkpoint's config.json numbers its labels {some(numbers)}", "number id2label from 0 without gaps"
        )
    return [str(config.id2label[i]) for i in numbers]


def _with_labels(encoder: Encoder, theirs: Sequence[str], wanted: Sequence[str], source: str) -> Encoder:
    """Bring the classifier's rows into the order of the data's labels, in place, and return the encoder.

    A checkpoint that names none (LABEL_0, ...) is taken to have the data's order. Labels that differ in case alone
    count as the same where that leaves no choice. Raises UserError for other names.
    """
    if len(theirs) != len(wanted):
        raise UserError(
            f"`{source}` classifies {len(theirs)} labels, the data have {len(wanted)}",
            "check task.labels and task.label",
        )
    place = _places(theirs, wanted)
    if place is None:
        raise UserError(
            f"`{source}` names the labels {some(theirs)}; the data {some(wanted)}",
            "set task.labels to the same names, or remove id2label from the checkpoint's config.json",
        )
    with torch.no_grad():
        encoder.classifier.weight.copy_(encoder.classifier.weight[place].clone())
        encoder.classifier.bias.copy_(encoder.classifier.bias[place].clone())
    encoder.spec = replace(encoder.spec, labels=tuple(wanted))
    return encoder


def _places(theirs: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Return where a checkpoint has each wanted label, None where it has others."""
    folded, sought = [name.casefold() for name in theirs], [name.casefold() for name in wanted]
    if set(theirs) == set(wanted):
        return [theirs.index(name) for name in wanted]
    if all(PLACEHOLDER.fullmatch(name) for name in theirs):
        return list(range(len(wanted)))
    if len(set(folded)) == len(folded) and set(folded) == set(sought):
        return [folded.index(name) for name in sought]
    return None


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
