"""Every path of a run directory, every role and every precision, named once; paths are relative, with slashes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from rmtkd_edge.errors import RunDirError

if TYPE_CHECKING:
    from pathlib import Path

    from rmtkd_edge.config.hardware import HardwareProfile
    from rmtkd_edge.config.recipe import Recipe
    from rmtkd_edge.run.directory import Run

MANIFEST = "run.json"
LOCK = "run.lock"  # there while a process writes
RECIPE = "recipe.toml"

RESULT = "compress/result.json"
DEVICE = "compress/device.toml"  # the hardware profile that the recipe names by its file
LOG = "compress/log.jsonl"
DATA = "compress/data.json"
PRICES = "compress/prices.json"
OUTPUTS = "compress/outputs.safetensors"  # of teacher and students on the reported rows
PREPROCESSING = "compress/preprocessing"
STUDENT_PREPROCESSING = "compress/student-preprocessing"  # where students read fewer tokens than their teacher
TEACHER = "compress/teacher"
TEACHER_RECORD = f"{TEACHER}/teacher.json"
TEACHER_TRAINING = "compress/teacher-training"
BEST = "compress/best"
STUDENTS = "students"  # of a size family: those on the way to the run's own, by target
CYCLES = "compress/cycles"
BUNDLES = "bundles"
PROFILES = "profile"
TUNED = "tuning"
EXPLAINED = "explain"
EXPLAIN = f"{EXPLAINED}/operators.json"
REPORT = "report"
# Folders that a run writes to.
OWNED = ("compress", "export", "baseline", STUDENTS, EXPLAINED, PROFILES, TUNED, BUNDLES, REPORT)

SHAPE, WEIGHTS, PROJECTIONS = "model.json", "model.safetensors", "projections.safetensors"  # of a model's folder
EXPORT_RECORD, CONFIG = "rmtkd.json", "config.json"  # of an exported folder
CARD = "README.md"  # its model card, which later stages write anew
OWN_WEIGHTS = "rmtkd.safetensors"  # its weights where transformers cannot rebuild the model: it reads no such name


@dataclass(frozen=True)
class Role:
    """One of the models of a run.

    Attributes:
        folder: where it is exported to.
        checkpoint: folder of the torch model that is exported.
        name: what it is called, before a precision.
        kind: `candidate` or `baseline`.
        student: of a size family, the target that a student on the way met.
    """

    folder: str
    checkpoint: str
    name: str
    kind: str
    student: str = ""

    @property
    def record(self) -> str:
        """Return the path of the export's record."""
        return f"{self.folder}/{EXPORT_RECORD}"

    @property
    def card(self) -> str:
        """Return the path of the export's model card."""
        return f"{self.folder}/{CARD}"


@dataclass(frozen=True)
class Precision:
    """One ONNX file of an exported folder; `on_request` ones are made only where they are asked for."""

    file: str
    on_request: bool = False


DEFAULT_METHOD = "rmt-kd"
ROLES = MappingProxyType(
    {
        "candidate": Role("export", BEST, DEFAULT_METHOD, "candidate"),
        "baseline": Role("baseline", TEACHER, "original", "baseline"),
    }
)
PRECISIONS = MappingProxyType(
    {
        "fp32": Precision("onnx/model.onnx"),
        "fp16": Precision("onnx/model_fp16.onnx", on_request=True),
        "int8": Precision("onnx/model_quantized.onnx"),
    }
)


STUDENT = r"\d(?:\.\d+)?(?:e-\d+)?"  # a target as a name


def label(role: str, precision: str, method: str = DEFAULT_METHOD, student: str = "") -> str:
    """Return what a file is called in measurements and reports: `rmt-kd int8`, `rmt-kd 0.5 int8`, `original fp32`.

    Args:
        method: the run's compression method, which names the candidate.
        student: name of a student on the way to the run's own.
    """
    names = [method if role == "candidate" else ROLES[role].name, student, precision]
    return " ".join(name for name in names if name)


def model_of(label: str) -> str:
    """Return what the labels of a model's files have in common: all but the precision."""
    return label.rpartition(" ")[0]


def student(name: str) -> Role:
    """Return a student by its name; the run's own has an empty one."""
    own = ROLES["candidate"]
    if not name:
        return own
    return Role(f"{STUDENTS}/{name}", f"compress/{STUDENTS}/{name}", f"{own.name} {name}", own.kind, name)


def roles_of(run: Run) -> tuple[Role, ...]:
    """Return the models that compress left in a run: its own student, those on the way, the largest first, the teacher.

    A run that names one target has none on the way.
    """
    return _roles(rel.removeprefix("compress/") for rel in run.manifest["files"] if rel.endswith(f"/{SHAPE}"))


def exported_roles(folder: Path) -> tuple[Role, ...]:
    """Return the models of a folder that holds the exported folders of a run."""
    return _roles(path.relative_to(folder).as_posix() for path in folder.glob(f"{STUDENTS}/*/{EXPORT_RECORD}"))


def _roles(files: Iterable[str]) -> tuple[Role, ...]:
    found = (re.fullmatch(rf"{STUDENTS}/({STUDENT})/[^/]+", rel) for rel in files)
    names = sorted((match[1] for match in found if match), key=float)
    return (ROLES["candidate"], *map(student, names), ROLES["baseline"])


def cycle_folder(number: int) -> str:
    """Return the folder of a cycle."""
    return f"{CYCLES}/{number:03d}"


def cycle_record(number: int) -> str:
    """Return the record of a finished cycle."""
    return f"{cycle_folder(number)}/cycle.json"


def cycle_plan(number: int) -> str:
    """Return the record of a cycle whose closed form is there."""
    return f"{cycle_folder(number)}/plan.json"


def cycle_trials(number: int) -> str:
    """Return the widths that a cycle's allocation has compared."""
    return f"{cycle_folder(number)}/trials.json"


def cycle_spectra(number: int) -> str:
    """Return the eigenvalues of a cycle's sites."""
    return f"{cycle_folder(number)}/spectra.safetensors"


def cycle_training(number: int, attempt: int) -> str:
    """Return the folder of the checkpoints of a cycle's fine-tuning."""
    return f"{cycle_folder(number)}/training-{attempt}"


def cycle_numbers(run: Run) -> list[int]:
    """Return the finished cycles of a run, in order."""
    found = (re.fullmatch(rf"{CYCLES}/(\d+)/cycle\.json", rel) for rel in run.manifest["files"])
    return sorted(int(match[1]) for match in found if match)


def profile_record(name: str) -> str:
    """Return the record of a device that was measured."""
    return f"{PROFILES}/{name}.json"


def profile_partial(name: str) -> str:
    """Return what is there of a measurement that is not finished."""
    return f"{PROFILES}/{name}.partial"


def tuning_record(name: str) -> str:
    """Return the record of session settings that were tried on a device."""
    return f"{TUNED}/{name}.json"


def profile_names(run: Run) -> list[str]:
    """Return the devices that the run was measured on, sorted."""
    found = (re.fullmatch(rf"{PROFILES}/([^/]+)\.json", rel) for rel in run.manifest["files"])
    return sorted(match[1] for match in found if match)


def bundle_record(name: str) -> str:
    """Return the record of a bundle that was made for a device."""
    return f"{BUNDLES}/{name}.json"


def read_recipe(run: Run) -> Recipe:
    """Return the resolved recipe of a run; raise RunDirError for no TOML, RecipeError for what is no recipe."""
    from rmtkd_edge.config.recipes import parse_recipe
    from rmtkd_edge.config.renamed import of_a_run

    where = str(run.path / RECIPE)
    try:
        data = tomllib.loads(run.read_text(RECIPE))
    except tomllib.TOMLDecodeError as err:
        raise RunDirError(f"{where} is not valid TOML: {err}", "restore it, or compress again with --force") from err
    return parse_recipe(of_a_run(data), where)


def keep_device(run: Run, recipe: Recipe) -> None:
    """Keep the hardware profile of a recipe that names it by its file, for stages that run elsewhere or later.

    Raises:
        RunDirError: the run was begun with another content of that file.
    """
    from rmtkd_edge.config.hardware import find_profile

    name = recipe.stop.profile
    if name is None or not name.endswith(".toml"):
        return
    text = find_profile(name).read_text(encoding="utf-8")
    if not run.has(DEVICE):
        run.write_text(DEVICE, text)
    elif run.read_text(DEVICE) != text:
        raise RunDirError(f"{name} was changed since {run.path} was begun with it", "--force begins again")


def read_device(run: Run, recipe: Recipe) -> HardwareProfile | None:
    """Return the hardware profile that a run's recipe names, None where it names none."""
    from rmtkd_edge.config.hardware import load_profile, parse_profile

    if recipe.stop.profile is None:
        return None
    if not run.has(DEVICE):
        return load_profile(recipe.stop.profile)
    return parse_profile(tomllib.loads(run.read_text(DEVICE)), str(run.path / DEVICE))
