"""What is compared on what: a study is a recipe with its data, its teacher, its targets and its steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

RMT_KD = "rmt-kd"
ENCODER_METHODS = (
    RMT_KD,
    "pca",
    "magnitude",
    "plain-kd",
    "distilbert",
    "pkd",
    "pkd-last",
    "tinybert",
    "theseus",
)
RESNET_METHODS = (RMT_KD, "pca", "magnitude", "plain-kd", "at", "fitnet", "crd")


@dataclass(frozen=True)
class Expected:
    """Seconds of a cell on one quiet core: its fixed part, an optimiser step, the search of widths, the teacher."""

    start: float
    step: float
    search: float
    teacher: float


@dataclass(frozen=True)
class Study:
    """A recipe with its data and what is run on it.

    Attributes:
        scale: the group of studies that one command runs.
        data: folder under --data.
        teacher: folder under --teachers; where it is not there, the recipe trains one.
        targets: shares of the parameters to remove.
        steps: optimiser steps, the same for all methods.
        changes: of the recipe, for all cells.
        rmt_kd: what rmt-kd is given where the recipe does not have it: the search of widths, and matching.
        less: a gentler target, for variants that train nothing; 0 where no variants are run.
        quantiles: whether the quantiles of the edge rules are compared.
        validations: of one training; the best state is kept, and a killed process goes on from the last one.
    """

    scale: str
    recipe: str
    data: str
    teacher: str
    targets: tuple[float, ...]
    methods: tuple[str, ...]
    steps: int
    expected: Expected
    changes: tuple[str, ...] = ()
    rmt_kd: tuple[str, ...] = ()
    less: float = 0.0
    quantiles: bool = False
    validations: int = 2


SEARCH = ('compress.allocation="kl"', "distil.match=3.0", "analyse.quantile=0.9")
AG_NEWS = (
    'task.name="ag_news"',
    'task.text=["text"]',
    'task.labels=["World","Sports","Business","Sci/Tech"]',
    'task.test_split="test"',
)
QNLI = (
    'task.name="qnli"',
    'task.hub_config="qnli"',
    'task.text=["question","sentence"]',
    'task.labels=["entailment","not_entailment"]',
)
QQP = (
    'task.name="qqp"',
    'task.hub_config="qqp"',
    'task.text=["question1","question2"]',
    'task.labels=["not_duplicate","duplicate"]',
    "task.validation_fraction=0.015",
)
LARGE = Expected(300, 1.5, 6000, 100_000)  # of one core; a GPU takes a hundredth of it


def on_bert(recipe: str, data: str, layers: int, target: float, changes: tuple[str, ...] = ()) -> Study:
    """Return a recipe of the paper's BERT models on a task."""
    return Study(
        "paper",
        recipe,
        data,
        f"{data}-bert{layers}",
        (target,),
        ENCODER_METHODS,
        20_000,
        LARGE,
        changes,
        SEARCH,
        validations=10,
    )


MINILM = Study(
    "small",
    "minilm-sst2",
    "sst2",
    "sst2-minilm",
    (0.80,),
    ENCODER_METHODS,
    800,
    Expected(40, 0.13, 200, 1500),
    less=0.60,
    quantiles=True,
)
NARROW = Study(
    "small",
    "sst2-4x256",
    "sst2",
    "sst2-4x256-s0",
    (0.80,),
    ENCODER_METHODS,
    800,
    Expected(40, 0.09, 100, 300),
    rmt_kd=SEARCH,
)


def transferred(data: str, teacher: str, changes: tuple[str, ...]) -> Study:
    """Return MiniLM's recipe, untouched but for the task."""
    return replace(MINILM, scale="transfer", data=data, teacher=teacher, changes=changes, less=0.0, quantiles=False)


STUDIES = {
    "minilm": MINILM,
    "sst2": NARROW,
    "ag_news": replace(
        NARROW, recipe="agnews-4x256", data="ag_news", teacher="ag-4x256-s0", expected=Expected(60, 0.15, 150, 500)
    ),
    "cifar10": Study(
        "small",
        "resnet18-cifar10",
        "cifar10",
        "cifar10-resnet18",
        (0.48, 0.70),
        RESNET_METHODS,
        300,
        Expected(50, 0.6, 90, 3000),
    ),
    "minilm-ag_news": transferred("ag_news", "ag-minilm", AG_NEWS),
    "minilm-qnli": transferred("qnli", "qnli-minilm", QNLI),
    "bert12-sst2": on_bert("bert-base-sst2", "sst2", 12, 0.809),
    "bert12-qqp": on_bert("bert-base-qqp", "qqp", 12, 0.809),
    "bert12-qnli": on_bert("bert-base-qnli", "qnli", 12, 0.809),
    "bert6-sst2": on_bert("bert-tiny-sst2", "sst2", 6, 0.588),
    "bert6-qqp": on_bert("bert-tiny-sst2", "qqp", 6, 0.588, QQP),
    "bert6-qnli": on_bert("bert-tiny-sst2", "qnli", 6, 0.588, QNLI),
    "resnet50": Study(
        "paper",
        "resnet50-cifar10",
        "cifar10",
        "cifar10-resnet50",
        (0.477,),
        RESNET_METHODS,
        3520,
        LARGE,
        rmt_kd=SEARCH,
        validations=10,
    ),
}
SCALES = tuple(dict.fromkeys(study.scale for study in STUDIES.values()))
