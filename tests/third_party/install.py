"""The package of mlp_family as pip would lay it down, without a build backend or a network."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

SOURCE = Path(__file__).parent / "mlp_family"


def install(site: Path) -> Path:
    """Copy the package into a site folder, with the metadata that entry points are found by; return the folder."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(SOURCE / "mlp_family", site / "mlp_family", ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"mlp_family-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mlp-family\nVersion: {project['version']}\n")
    groups = [(g, "\n".join(f"{k} = {v}" for k, v in points.items())) for g, points in project["entry-points"].items()]
    (info / "entry_points.txt").write_text("\n".join(f"[{group}]\n{points}\n" for group, points in groups))
    return site
