"""What every family asks of a checkpoint: is it a model of ours, does ours compute the same, where is which label."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmtkd_edge import plugins
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.settings import Head
from rmtkd_edge.errors import UserError, reason, some
from rmtkd_edge.families.base import Spec, find_family
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.model import Model
from rmtkd_edge.families.store import assemble, load_folder, read_shape, read_weights, spec_of
from rmtkd_edge.run.layout import CONFIG, EXPORT_RECORD, MANIFEST, PREPROCESSING, SHAPE, TEACHER
from rmtkd_edge.run.records.base import from_json, read_json_file
from rmtkd_edge.run.records.export import ExportRecord

PLACEHOLDER = re.compile(r"LABEL_\d+", re.IGNORECASE)  # what transformers calls a label that nobody named
INTACT = "use a complete checkpoint"
SINGLE_LABEL = "single_label_classification"  # what transformers calls one label a row
TOLERANCE = 1e-4  # of the largest output


def own_spec(folder: Path) -> Spec | None:
    """Return the shape of the model in a folder that this package wrote (of a run, or exported), None for any other.

    Raises:
        UserError: it is a run directory, which holds several.
        RunDirError: it cannot be read.
    """
    if (folder / MANIFEST).is_file():
        raise UserError(
            f"`{folder}` is a run directory, which holds several models",
            f"--set model.source={folder / TEACHER} --set model.tokenizer={folder / PREPROCESSING} (a tokenizer is for "
            "models of texts)",
        )
    if (folder / SHAPE).is_file():
        return spec_of(read_shape(folder).spec, folder / SHAPE)
    config = read_json_file(folder / CONFIG, INTACT) if (folder / CONFIG).is_file() else None
    ours = config.get("rmtkd") if isinstance(config, dict) else None
    if not isinstance(ours, dict) or "spec" not in ours:
        return None
    return spec_of(ours["spec"], folder / CONFIG, INTACT)


def own_model(folder: Path) -> Model | None:
    """Return the model of a folder that this package wrote, None for any other.

    Raises:
        UserError: it is a run directory, which holds several.
        RunDirError: a file in it was altered.
    """
    spec = own_spec(folder)
    if spec is None:
        return None
    if (folder / SHAPE).is_file():
        return load_folder(folder)
    record = from_json(ExportRecord, read_json_file(folder / EXPORT_RECORD, INTACT), folder / EXPORT_RECORD)
    path = folder / record.weights
    tensors = read_weights(path, record.files.get(record.weights), INTACT)
    return assemble(spec, find_family(spec.family).from_tensors(spec, tensors), path, INTACT)


@torch.no_grad()
def check_same(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], what: str, kind: str, causes: str) -> None:
    """Raise UserError where a model of ours gives other outputs than what it was made from, for the same inputs.

    Args:
        ours, theirs: give the outputs of either, float32.
        what: was made into a model of ours.
        kind: of model that it would be taken for.
        causes: what weights and settings do not tell, which may be why they differ.
    """
    try:
        wanted = theirs()
    except Exception as err:  # a user's own class may want other inputs
        raise UserError(f"{what} cannot be run to compare with it: {reason(err)}", causes) from err
    check_outputs(ours(), wanted, f"{what} computes something else than {kind} of its weights", causes)


def check_outputs(found: Tensor, wanted: Tensor, what: str, hint: str) -> None:
    """Raise UserError where outputs are not those that they should be, up to TOLERANCE of the largest of these."""
    if found.shape != wanted.shape:
        raise UserError(f"{what}: its logits are {tuple(wanted.shape)}, ours {tuple(found.shape)}", hint)
    largest = wanted.abs().max().clamp_min(torch.finfo(found.dtype).tiny)
    difference = float((found - wanted).abs().max() / largest)
    if not difference <= TOLERANCE:
        raise UserError(f"{what}: logits differ by {difference:.1e} of the largest", hint)


@torch.no_grad()
def reorder(classifier: ProjectedLinear, order: Sequence[int]) -> None:
    """Bring the rows of a linear layer into an order, in place."""
    for tensor in (classifier.weight, classifier.bias):
        tensor.copy_(tensor[order].clone())


def config_labels(config: Any) -> list[str]:
    """Return the labels of a transformers config in their order; raise UserError for numbers with gaps."""
    numbers = sorted(config.id2label)
    if numbers != list(range(len(numbers))):
        raise UserError(
            f"the checkpoint's config.json numbers its labels {some(numbers)}", "number id2label from 0 without gaps"
        )
    return [str(config.id2label[i]) for i in numbers]


def problem_of(recipe: Recipe) -> str | None:
    """Return what transformers calls the problem of a recipe's task, None where it has no name for it."""
    hub = plugins.find("tasks", recipe.task.kind).hub
    return None if hub is None else hub.problem_type  # type: ignore[no-any-return]


def head_of(recipe: Recipe) -> Head:
    """Return what a model of a recipe's task gives."""
    return plugins.find("tasks", recipe.task.kind).head  # type: ignore[no-any-return]


def refuse_other_head(source: str, found: Head, wanted: Head, modality: str) -> None:
    """Raise UserError, naming the tasks that a model is for, where its head is another than the task's."""
    if found == wanted:
        return
    gives = {"row": "classifies whole rows", "token": "classifies every token", "embedding": "gives embeddings"}
    tasks = (plugins.find("tasks", name) for name in plugins.names("tasks"))
    kinds = [task.name for task in tasks if task.head == found and task.modality == modality]
    raise UserError(
        f"`{source}` {gives[found]}, which is another task than the recipe's",
        f"set task.kind = {' or '.join(kinds)}, or use another checkpoint",
    )


def refuse_other_problems(problem: str | None, wanted: str | None = SINGLE_LABEL) -> None:
    """Raise UserError where a checkpoint is for another kind of problem than the task; None is any.

    Args:
        problem: the `problem_type` of its config.json.
    """
    if problem is None or wanted is None or problem == wanted:
        return
    hubs = {name: plugins.find("tasks", name).hub for name in plugins.names("tasks")}
    kinds = [name for name, hub in hubs.items() if hub is not None and hub.problem_type == problem]
    named = " or ".join(kinds) or "an installed one of that kind"
    raise UserError(
        f"the checkpoint's problem_type is {problem}, and the task needs {wanted}",
        f"set task.kind = {named} (from Python: config.problem_type = None, and task=... in every call), or use "
        "another checkpoint; where its config.json is wrong, remove problem_type there",
    )


def other_size(source: str, found: int, wanted: int) -> UserError:
    """Return the error for a model that gives another number of outputs than the task needs."""
    gives = "gives one score (a regression, or a cross-encoder)" if found == 1 else f"classifies {found} labels"
    needs = "the data have one score a row" if wanted == 1 else f"the data have {wanted}"
    fits = "regression reads one score, text-classification and multi-label several labels"
    return UserError(f"`{source}` {gives}, {needs}", f"check task.labels, --data and, of texts, task.kind ({fits})")


def label_order(theirs: Sequence[str], wanted: Sequence[str], source: str) -> list[int]:
    """Return where a checkpoint has each of the data's labels.

    A checkpoint that names none (LABEL_0, ...), or gives one output, is taken to have the data's order. Labels that
    differ in case alone count as the same where that leaves no choice.

    Raises:
        UserError: it knows another number of labels, or others.
    """
    if len(theirs) != len(wanted):
        raise other_size(source, len(theirs), len(wanted))
    folded, sought = [name.casefold() for name in theirs], [name.casefold() for name in wanted]
    if set(theirs) == set(wanted):
        return [theirs.index(name) for name in wanted]
    if len(wanted) == 1 or all(PLACEHOLDER.fullmatch(name) for name in theirs):
        return list(range(len(wanted)))
    if len(set(folded)) == len(folded) and set(folded) == set(sought):
        return [folded.index(name) for name in sought]
    raise UserError(
        f"`{source}` names the labels {some(theirs)}; the data {some(wanted)}",
        "set task.labels to the same names, or remove id2label (timm: label_names) from the checkpoint's config.json",
    )
