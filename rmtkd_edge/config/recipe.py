"""What a recipe (models/*.toml) says: every key, its meaning and its only default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, ValidationError, model_validator

from rmtkd_edge import plugins
from rmtkd_edge.config.settings import (
    Amount,
    Batch,
    Fraction,
    Graph,
    Length,
    Nonnegative,
    Positive,
    Scales,
    Section,
    Seed,
    Text,
    describe_faults,
    did_you_mean,
)
from rmtkd_edge.config.stop import NO_TARGET, Stop
from rmtkd_edge.config.task import Task, named, names_a_package

WITHOUT_QUANTILE = ("bema", "parallel")  # edge rules that give one rank, which no target moves


class Model(Section):
    """Where the teacher comes from."""

    family: str = Field(
        "encoder",
        description="`encoder` (BERT-like), `modernbert`, `resnet`, `mobilenet`, `vit`, or an installed one",
    )
    source: Text = Field(
        description="`scratch`, a hub id, a local folder, or `package:NAME` for a model that a package ships; of a "
        "model of images `scratch`, `torchvision:resnet50`, a folder of transformers or a safetensors state dict"
    )
    tokenizer: Text | None = Field(None, description="Hub id, folder or `package:NAME`; the source's own when left out")
    shape: dict[str, Any] = Field({}, description="Shape of a model from random weights; the family checks its keys")

    @model_validator(mode="after")
    def _shape_is_the_familys(self) -> Model:
        names_a_package("model.source", self.source)
        names_a_package("model.tokenizer", self.tokenizer)
        shape = named("families", "model.family", self.family).shape
        try:
            shape.model_validate(self.shape)
        except ValidationError as err:
            raise ValueError("model.shape:\n" + describe_faults(err, shape, "model.shape.")) from err
        return self


class Train(Section):
    """Training of the teacher, where its metric is below `threshold` (or it has random weights)."""

    threshold: Fraction = Field(0.0, description="Metric on validation from which the spectra carry the task")
    epochs: Positive = 3
    learning_rate: Amount = 5e-5
    batch_size: Batch = 32
    weight_decay: Nonnegative = 0.01
    warmup: Fraction = 0.06
    max_grad_norm: Amount = 1.0
    precision: Literal["no", "bf16", "fp16"] = Field(
        "no",
        description="Mixed precision of every training, the distillation's too, and of the states of an encoder that a "
        "closed form is fitted to (bf16 alone): bf16 for CPUs that have it in hardware (AVX512-BF16, AMX) and GPUs, "
        "fp16 for GPUs",
    )


ONE_SHOT_TOKENS, LOOP_TOKENS = 65_536, 16_384  # of text that the warm start is fitted on


class Analyse(Section):
    """Which directions are signal (Marchenko-Pastur)."""

    rule: Literal["window", "paper", "bema", "parallel", "explained-variance"] = "window"
    quantile: Fraction = Field(
        0.5, description="Where the noise variance starts; higher cuts more (`explained-variance`: share left out)"
    )
    delta: Fraction = Field(0.05, description="Half width of the rule `window`, as a share of the eigenvalues")
    margin: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Tracy-Widom level that is added to the edge"
    )
    calibration: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="Share of train that spectra and closed form draw their rows from; see maximum_rows"
    )
    minimum_rows: Positive = Field(
        2048, description="Rows used where `calibration` would give fewer (or all there are)"
    )
    maximum_rows: Positive = Field(
        2048, description="Text: rows of these that the spectra take at most (but `minimum_rows` at least)"
    )
    sample: Literal["token", "sequence", "pixel", "image"] | None = Field(
        None,
        description="One column of the spectrum: text `token` or `sequence` (the first token); `pixel` or `image`; of "
        "a vit `token` or `image` (the class token)",
    )
    tokens_per_sequence: Length = Field(
        2, description="Random valid tokens of each sequence (or image): fixes q = d / n"
    )
    pixels_per_image: Length = Field(1, description="Random pixels of each image: fixes q = d / n")
    center: bool = Field(False, description="Subtract the mean of the activations (the paper does not)")
    scale_columns: bool = Field(False, description="Scale every sampled token to the same norm (heavy tails)")
    effective_samples: bool = Field(False, description="Use n_eff instead of n in q")
    weighting: Literal["none", "effect"] = "effect"
    blend: Fraction = Field(0.5, description="Share of the identity in the effect weights")
    weighting_rows: Positive = 512

    @model_validator(mode="after")
    def _null_is_not_centred(self) -> Analyse:
        if self.rule == "parallel" and self.center:
            raise ValueError("the rule `parallel` compares with copies that are not centred: center must be false")
        return self


class Compress(Section):
    """What is cut, in which order, and how the narrowed model starts."""

    method: str = Field("rmt-kd", description="`rmt-kd`, `plain-kd`, ... (docs/method.md), or an installed one")
    sites: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Kinds of sites that are cut (`embedding`: the word table's width); the family's",
    )
    vocabulary: Positive | None = Field(
        None,
        description="Text: drop tokens that training rows use less often (1: those that they never use); unset: none",
    )
    layers: Positive | None = Field(
        None, description="Layers that stay; the others go first, in a cycle of their own; unset: all (encoders, vit)"
    )
    sites_per_cycle: Positive = 4
    rounds: Annotated[int, Field(ge=1, le=1000)] = 2
    one_shot: bool = Field(False, description="Closed form only: analyse, project, warm start; nothing is trained")
    basis: Literal["varimax", "eigen"] = "varimax"
    channels: Literal["project", "select"] = Field(
        "select",
        description="Widths with a nonlinearity after them: keep channels (pivoted Cholesky), or project",
    )
    mode: dict[str, Literal["width", "factor", "auto"]] = Field(
        {},
        description="By site or kind: narrower (width, the default), two thin layers (factor), or the better (auto)",
    )
    warm_start: Literal["least-squares", "fold"] | None = Field(
        None, description="Weights fitted to the teacher's, or by algebra alone; unset: the first, but for `magnitude`"
    )
    warm_start_tokens: Positive | None = Field(
        None,
        description="Text: rows are fitted on, the calibration subset's first, until they hold so many tokens; unset: "
        f"{ONE_SHOT_TOKENS} where nothing is trained afterwards (one_shot), {LOOP_TOKENS} in the loop",
    )
    warm_start_images: Positive = Field(1024, description="Images that are fitted on")
    ridge: Amount = 1e-4
    fit_output_layer: bool | None = Field(
        None,
        description="Fit the output layer of a closed form to the divergence from the teacher's outputs, where least "
        "squares have made it; unset: where nothing is trained afterwards (one_shot)",
    )
    align: bool = Field(True, description="Round ranks up to the multiples of the hardware profile")
    minimum_rank: Positive = 4
    retry_quantile: Fraction = Field(
        0.5, description="Factor on the quantile when a rolled-back site is tried once more"
    )
    allocation: Literal["edge", "kl"] = Field(
        "edge",
        description="One quantile for all sites (edge), or one per kind of site that minimises the divergence from the "
        "teacher on training rows at as many parameters (kl: 10 to 30 closed forms)",
    )
    trials: Positive = Field(30, description="With kl: closed forms that are compared at most")
    token_blend: Fraction = Field(0.3, description="Least squares: share of equal token weights, the rest by effect")
    ranks: dict[str, Positive] = Field(
        {}, description="Widths by site (`layer.0.ffn`) or kind (`ffn`) in place of the edge's"
    )

    @property
    def fits_output_layer(self) -> bool:
        """Return whether the output layer of a closed form is fitted to the divergence."""
        return (self.one_shot if self.fit_output_layer is None else self.fit_output_layer) and self.warm_start != "fold"

    @property
    def fitted_tokens(self) -> int:
        """Return the tokens that the warm start is fitted on."""
        return self.warm_start_tokens or (ONE_SHOT_TOKENS if self.one_shot else LOOP_TOKENS)


class Distil(Section):
    """Fine-tuning with L = alpha CE + (1 - alpha) T^2 KL(p_old || p_new)."""

    alpha: Fraction = 0.5
    temperature: Amount = 2.0
    teacher: Literal["previous", "original"] = Field(
        "previous",
        description="Who teaches a cycle: the model as it stood before it, or the one before the first cycle",
    )
    match: Nonnegative = Field(
        0.0, description="Weight of matching the residual stream, decoded by a fixed map, with the teacher's; 0: none"
    )
    states_first: Fraction = Field(
        0.0, description="Share of the steps, at the beginning, that match inner states alone, where distil.match does"
    )
    epochs: Positive = 1
    steps: Positive | None = Field(None, description="Optimiser steps a cycle; overrides `epochs`")
    learning_rate: Amount = 3e-4
    batch_size: Batch = 32
    weight_decay: Nonnegative = 0.01
    warmup: Fraction = 0.1
    max_grad_norm: Amount = 1.0
    dropout: Fraction = 0.0
    evaluate_every: Positive = Field(200, description="Steps between validations; the best state is kept")
    through_projection: bool = Field(False, description="Train the wide producers through P instead of the folded ones")


class Export(Section):
    """The ONNX files that ship."""

    opset: Positive = 18
    int8: bool = True
    int8_scales: Scales | None = Field(
        None,
        description="Scales of int8 activations: `dynamic` (computed for every input) or `static` (from rows, QDQ); "
        "a family's own way when left out",
    )
    fp16: bool = Field(False, description="A half-precision file too, for GPUs")
    max_drop: Fraction = Field(0.01, description="int8 (or fp16) that loses more of the metric than this is refused")
    verify_rows: Positive = 64
    graph: Graph | None = Field(
        None,
        description="`fast` (onnxruntime's own operators too) or `portable` (standard ONNX alone); "
        "the hardware profile's when left out, `fast` without one",
    )


class Recipe(Section):
    """A whole recipe."""

    title: str = ""
    seed: Seed = 0
    model: Model
    task: Task
    train: Train = Train()
    analyse: Analyse = Analyse()
    compress: Compress = Compress()
    distil: Distil = Distil()
    stop: Stop = Stop()
    export: Export = Export()

    @model_validator(mode="after")
    def _tables_agree(self) -> Recipe:
        family, task = plugins.find("families", self.model.family), plugins.find("tasks", self.task.kind)
        method = named("methods", "compress.method", self.compress.method)
        faults = []
        if family.modality != task.modality:
            faults.append(f"a task of kind {self.task.kind} does not go with the family {self.model.family}")
        elif task.head not in family.heads:
            faults.append(f"a model of the family {self.model.family} cannot be made for the task {self.task.kind}")
        if self.analyse.sample is not None and self.analyse.sample not in family.samples:
            faults.append(f"analyse.sample = {self.analyse.sample} does not go with the family {self.model.family}")
        if self.export.int8_scales not in (None, *family.int8_scales):
            known = ", ".join(family.int8_scales)
            faults.append(f"export.int8_scales = {self.export.int8_scales}: {self.model.family} has {known} alone")
        for kind in self.compress.sites or ():
            if kind not in family.site_kinds:
                guess = did_you_mean(kind, family.site_kinds)
                why = f"; {uncut}" if (uncut := family.never_cut(None)) else ""
                faults.append(f"compress.sites: no kind `{kind}`{guess} (known: {', '.join(family.site_kinds)}){why}")
        if self.compress.vocabulary is not None and "vocabulary" not in family.offers:
            faults.append(f"compress.vocabulary does not go with the family {self.model.family}")
        if self.compress.layers is not None and "layers" not in family.offers:
            faults.append(f"compress.layers does not go with the family {self.model.family}")
        if self.compress.layers is not None and self.compress.one_shot:
            faults.append("compress.layers needs a training that makes up for them: not with compress.one_shot")
        for mode in set(self.compress.mode.values()) - set(family.modes):
            faults.append(f"compress.mode = {mode} does not go with the family {self.model.family}")
        if self.task.pairs is not None and task.head != "embedding":
            faults.append(f"task.pairs does not go with the task {self.task.kind}")
        if (self.task.unlabelled is not None or not task.labelled) and not self.compress.one_shot:
            rows = f"rows of {self.task.kind if self.task.unlabelled is None else 'task.unlabelled'} have no labels"
            if self.distil.alpha > 0:
                faults.append(f"{rows}, the teacher alone teaches: distil.alpha = {self.distil.alpha:g} must be 0")
            if getattr(method, "needs_labels", True):
                faults.append(f"{rows}, and compress.method = {self.compress.method} learns from labels")
        if self.compress.allocation == "kl" and self.analyse.rule in WITHOUT_QUANTILE:
            faults.append(f"compress.allocation = kl moves quantiles, the rule {self.analyse.rule} has none")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def aiming_at(self, target: float | None) -> Recipe:
        """Return the recipe with one target in place of its own."""
        return self.model_copy(update={"stop": self.stop.model_copy(update={"target_reduction": target})})

    def to_toml(self) -> str:
        """Return the resolved recipe as TOML (keys that are None are left out)."""
        found = self.model_dump(exclude_none=True)
        found["stop"].setdefault("target_reduction", NO_TARGET)
        return tomli_w.dumps(found)
