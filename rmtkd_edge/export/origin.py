"""What a model card says beyond an export's own record: the source and its licence, the data, what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.packaged import resolve_source
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import CARD, TEACHER_RECORD, Role, profile_names, profile_record
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.run.records.teacher import TeacherRecord

SCRATCH = "scratch"


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        source: the recipe's `model.source`, empty for a model that was given in memory.
        base_model: its id on the hub, where it has one.
        license: of the source model as its own card states it, None where it does not.
        dataset: id of the data set on the hub, empty for any other data.
        columns: of texts.
        method: that compressed it, empty for the original.
        trained: the run trained the classifier of the source.
        profiles: what was measured.
    """

    source: str = ""
    base_model: str = ""
    license: str | None = None
    dataset: str = ""
    columns: int = 1
    method: str = ""
    trained: bool = False
    seed: int | None = None
    profiles: tuple[ProfileRecord, ...] = ()


def origin_of(run: Run, recipe: Recipe, role: Role) -> Origin:
    """Return where a model of a run comes from, and what was measured so far."""
    hub, source = recipe.task.hub or "", recipe.model.source
    teacher = run.read_record(TeacherRecord, TEACHER_RECORD) if run.has(TEACHER_RECORD) else None
    return Origin(
        source=source,
        base_model=source if _in_cache(source, "config.json") is not None else "",
        license=license_of(source),
        dataset=hub if is_hub_id(hub) else "",
        columns=max(1, len(recipe.task.text)),
        method=recipe.compress.method if role.kind == "candidate" else "",
        trained=teacher is None or teacher.trained,
        seed=recipe.seed,
        profiles=tuple(run.read_record(ProfileRecord, profile_record(name)) for name in profile_names(run)),
    )


def edited_card(run: Run, role: Role) -> bytes | None:
    """Return a model card that somebody changed or wrote, None where it is absent or as it was written."""
    path = run.path_of(role.card)
    if not path.is_file() or run.manifest["files"].get(role.card) == sha256_file(path):
        return None
    return path.read_bytes()


def is_repo_id(name: str) -> bool:
    """Return whether a name can be an id on the hub."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(name)


def is_hub_id(source: str) -> bool:
    """Return whether a source can be one of the hub: folders, `package:NAME` and `scratch` are none."""
    return is_repo_id(source) and source != SCRATCH and not Path(source).exists()


def public_name(source: str) -> str:
    """Return a source as others may see it: of a path on this machine the last part alone."""
    path = Path(source)
    return path.name if path.is_absolute() or path.exists() or source.startswith((".", "~")) else source


def license_of(source: str) -> str | None:
    """Return the licence that the source model's own card states, as far as the card is on this machine."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if source == SCRATCH:
        return None
    try:
        card = Path(resolve_source(source)) / CARD
        path = card if card.is_file() else _in_cache(source, CARD)
        found = None if path is None else ModelCard(path.read_text("utf-8")).data.to_dict().get("license")
    except (RmtkdError, OSError, ValueError, YAMLError):  # a card that cannot be read states nothing
        return None
    return found if isinstance(found, str) and found else None


def _in_cache(source: str, name: str) -> Path | None:
    """Return a file of a model of the hub that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, name) if is_hub_id(source) else None
    return Path(found) if isinstance(found, str) else None
