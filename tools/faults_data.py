"""Small cases for faults.py: recipes and data that train, compress and export in seconds."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from faults_trials import call

from rmtkd_edge.machine import detect_machine
from rmtkd_edge.profile.measuring.command import main as runner

STAGES = ("compress", "export", "profile", "report")
PROFILES = Path(__file__).resolve().parents[1] / "profiles"
GOOD, BAD = ["great", "fine", "lovely", "bright"], ["awful", "dull", "bleak", "cold"]
PLAIN = ["the", "film", "was", "a", "very", "plot", "and", "cast", "of", "story"]
TEXT: dict[str, Any] = {
    "model": {"source": "scratch", "shape": {"layers": 2, "width": 16, "heads": 2, "ffn": 32, "max_positions": 16}},
    "task": {"name": "tiny", "text": ["text"], "max_length": 12, "test_fraction": 0.0},
    "train": {"epochs": 6, "learning_rate": 5e-3, "batch_size": 32},
    "analyse": {"minimum_rows": 128, "weighting_rows": 32},
    "compress": {"sites": ["ffn"], "sites_per_cycle": 1, "rounds": 1, "warm_start_tokens": 400, "align": False},
    "distil": {"steps": 6, "evaluate_every": 3},
    "stop": {"target_reduction": 0.9, "max_drop": 1.0},
    "export": {"max_drop": 1.0, "verify_rows": 8},
}
IMAGES: dict[str, Any] = {
    "model": {"family": "resnet", "source": "scratch", "shape": {"depth": 18, "width": 4, "stem": "cifar"}},
    "task": {"name": "stripes", "kind": "image-classification", "test_fraction": 0.0},
    "train": {"epochs": 3, "learning_rate": 5e-3, "batch_size": 32},
    "analyse": {"sample": "pixel", "pixels_per_image": 2, "calibration": 1.0},
    "compress": {"sites": ["stream"], "sites_per_cycle": 2, "rounds": 1, "align": False, "warm_start_images": 32},
    "distil": {"steps": 4, "batch_size": 32, "evaluate_every": 2},
    "stop": {"target_reduction": 0.9, "max_drop": 1.0},
    "export": {"max_drop": 1.0, "verify_rows": 8},
}


@dataclass(frozen=True)
class Case:
    """A recipe with its data, and the run that is left alone."""

    name: str
    recipe: dict[str, Any]
    file: Path
    data: Path
    whole: Path

    def command(self, stage: str, run: Path) -> list[str]:
        """Return the arguments of a stage's command."""
        measure = ["--on", "local-cpu", "--threads", "1", "--batch-size", "1", "--quick", "--iterations", "5"]
        return {
            "compress": ["compress", str(self.file), "--data", str(self.data), "--out", str(run)],
            "export": ["export", str(run)],
            "profile": ["profile", str(run), *measure, "--duration", "0"],
            "report": ["report", str(run)],
        }[stage]

    @property
    def bundle(self) -> Path:
        """The measured bundle of the run that is left alone."""
        return self.whole.with_name(f"{self.name}-bundle")

    def bundled(self, profile: Path, out: Path) -> list[str]:
        """Return the arguments of `bundle`."""
        short = ["--batch-size", "1", "--quick", "--iterations", "5", "--duration", "0"]
        length = ["--seq-len", "8"] if self.name == "text" else []
        return ["bundle", str(self.whole), "--on", str(profile), "--out", str(out), *short, *length]

    def run_whole(self, stage: str, log: Path) -> None:
        """Run a stage of the run that is left alone."""
        code = call(self.command(stage, self.whole), log)
        if code != 0:
            raise SystemExit(f"{self.name} {stage}: exit {code}: {log.read_text()[-1000:]}")


def make_case(name: str, work: Path) -> Case:
    """Write the data and the recipe of a case."""
    data, recipe = work / f"{name}-data", dict(TEXT if name == "text" else IMAGES)
    data.mkdir()
    if name == "text":
        _write_texts(data)
        recipe["model"] = {**recipe["model"], "tokenizer": str(_tokenizer(work / "tokenizer"))}
    else:
        _write_images(data)
    file = work / f"{name}.toml"
    file.write_text(tomli_w.dumps(recipe), encoding="utf-8")
    return Case(name, recipe, file, data, work / f"{name}-whole")


def _write_texts(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 256), ("validation", 64)):
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for _ in range(count):
                good = bool(rng.integers(2))
                words = [*rng.choice(PLAIN, 5), *rng.choice(GOOD if good else BAD, 2)]
                writer.writerow([" ".join(rng.permutation(words)), "good" if good else "bad"])


def _tokenizer(folder: Path) -> Path:
    from transformers import BertTokenizerFast  # type: ignore[attr-defined]

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PLAIN, *GOOD, *BAD]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def _write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 128), ("validation", 64)):
        labels = rng.integers(0, 2, count)
        waves = 90 * np.sign(np.sin(np.arange(8) * 2 + rng.uniform(0, 6, (count, 1))))
        images = np.where(labels[:, None, None] == 0, waves[:, None, :], waves[:, :, None])
        images = images[..., None] + 128 + rng.normal(0, 10, (count, 8, 8, 3))
        np.savez(folder / f"{split}.npz", images=images.clip(0, 255).astype(np.uint8), labels=labels)


def board(file: Path) -> Path:
    """Write the profile of another device that has this machine's processor."""
    profile = tomllib.loads((PROFILES / "raspberry-pi-5.toml").read_text(encoding="utf-8"))
    mine = {"threads": 1, "instruction_sets": list(detect_machine().instruction_sets[:1])}
    file.write_text(tomli_w.dumps({**profile, **mine}), encoding="utf-8")
    return file


def make_bundle(case: Case, work: Path) -> None:
    """Write a bundle of a case's run, which then knows it, and measure it."""
    log, files = work / "log.txt", [str(case.bundle / name) for name in ("plan.json", "results.json")]
    if call(case.bundled(board(work / "board.toml"), case.bundle), log) or call(files, log, program=runner):
        raise SystemExit(f"{case.name}: no bundle: {log.read_text()[-1000:]}")


def warm_up() -> None:
    """Import what the stages need, so that a fork begins at once; nothing is computed, which would start threads."""
    import onnxruntime  # noqa: F401
    import transformers  # noqa: F401
    from torch import nn  # noqa: F401

    import rmtkd_edge.api.bundle
    import rmtkd_edge.api.collect
    import rmtkd_edge.api.export
    import rmtkd_edge.api.profile
    import rmtkd_edge.api.report
    import rmtkd_edge.compress.stage
    import rmtkd_edge.export.stage  # noqa: F401
