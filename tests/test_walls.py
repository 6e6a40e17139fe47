"""What each module may load and know; import-linter holds the layers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rmtkd_edge"
FILES = sorted(PACKAGE.rglob("*.py"))


def loaded(program: str, names: tuple[str, ...]) -> list[str]:
    """Return which modules a program loads."""
    program = f"import sys; {program}; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return re.findall(r"'(\w+)'", done.stdout)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import rmtkd_edge", ("torch", "numpy", "pydantic", "onnxruntime", "transformers")) == []


@pytest.mark.parametrize(
    "module",
    [
        "rmtkd_edge.report.stage",
        "rmtkd_edge.report.paper.stage",
        "rmtkd_edge.profile.stage",
        "rmtkd_edge.run.records",
        "rmtkd_edge.config.recipe",
        "rmtkd_edge.families.base",
        "rmtkd_edge.families.encoder",
        "rmtkd_edge.families.modernbert",
        "rmtkd_edge.families.resnet",
        "rmtkd_edge.families.mobilenet",
        "rmtkd_edge.families.vit",
        "rmtkd_edge.tasks.text_classification",
        "rmtkd_edge.tasks.image_classification",
        "rmtkd_edge.tasks.multi_label",
        "rmtkd_edge.tasks.regression",
        "rmtkd_edge.tasks.sentence_embedding",
        "rmtkd_edge.tasks.token_classification",
        "rmtkd_edge.methods.rmt_kd",
    ],
)
def test_no_torch_where_nothing_is_trained(module: str) -> None:
    assert loaded(f"import {module}", ("torch", "transformers")) == []


def test_reading_a_recipe_loads_no_torch() -> None:
    program = "from rmtkd_edge.config.recipes import load_recipe; load_recipe('demo'); load_recipe('demo-images')"
    assert loaded(program, ("torch", "transformers")) == []


def test_no_module_is_a_copy_for_another_architecture() -> None:
    assert [
        path.name for path in FILES if re.match(r"(conv|image|text)_", path.name) and "tasks" not in path.parts
    ] == []


def test_an_architecture_is_known_in_its_own_folder_alone() -> None:
    classes = set()
    for path in (PACKAGE / "families").rglob("*.py"):
        classes |= set(
            re.findall(r"^class (\w+)\((?:(?:\w+\.)?Module|Model)\)", path.read_text(encoding="utf-8"), re.M)
        )
    assert {"Encoder", "MobileNet", "ModernBert", "ResNet", "VisionTransformer"} <= classes
    names, families = "|".join(sorted(classes)), "encoder|mobilenet|modernbert|resnet|vit"
    for path in FILES:
        if "families" in path.relative_to(PACKAGE).parts:
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(rf"isinstance\([^)]*\b({names})\b", text), f"{path} asks what class a model has"
        assert not re.search(rf"""(==|!=|in) \(?["']({families})["']""", text), f"{path} asks which family it is"
        assert not re.search(rf"rmtkd_edge\.families\.({families})", text), f"{path} imports a family's module"


def test_only_the_command_line_prints() -> None:
    printing = [path for path in FILES if re.search(r"^\s*print\(", path.read_text(encoding="utf-8"), re.M)]
    allowed = {"cli", "measuring"}  # what measures answers the host on standard output
    assert [path for path in printing if not allowed & {*path.relative_to(PACKAGE).parts}] == []


def test_every_function_is_formatted_by_ruff() -> None:
    skips = sum(path.read_text(encoding="utf-8").count("fmt: skip") for path in FILES)
    assert skips <= 5
