"""How long a model would take on a device that is not here: from the width -> latency curves measured on it.

Every product and every convolution is counted with the time a multiply-accumulate takes at its width, and GELU, softmax
and norms with the time an element takes. Biases, ReLUs and the memory between layers are in the curves' layers too, and
are not counted again; `profile` measures the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt
from typing import Any, Literal

from rmtkd_edge.families.resnet.spec import ConvNetSpec, Convolution
from rmtkd_edge.families.encoder.spec import EncoderSpec, Spec
from rmtkd_edge.config.hardware import Calibration, load_profile
from rmtkd_edge.config.recipe import Recipe

Predict = Callable[[Any], float]


def predictor(recipe: Recipe) -> Predict | None:
    """Return what gives the latency, in ms, of a spec at batch 1 on the recipe's device; None without its curves."""
    if recipe.stop.profile is None:
        return None
    profile = load_profile(recipe.stop.profile)
    found = profile.calibration
    if found is None or not (found.conv_sizes if recipe.task.kind == "image" else found.gemm_sizes):
        return None
    return lambda spec: predicted_ms(spec, found, min(profile.loads.seq))


def predicted_ms(spec: Spec, curves: Calibration, tokens: int) -> float:
    """Return the predicted latency in ms of one sequence of `tokens` (or one image) through a folded model.

    Raises ValueError where the calibration has no sizes.
    """
    if isinstance(spec, ConvNetSpec):
        return 1e-6 * sum(convolution_ns(c, curves) for c in spec.convolutions())
    assert isinstance(spec, EncoderSpec), "a family of products or of convolutions"
    rows = min(tokens, spec.max_length)
    multiplied = sum(rows * m * n * curves.ns_per_mac("gemm", sqrt(m * n)) for m, n in products(spec, rows))
    others = sum(rows * number * curves.ns_per_element.get(name, 0.0) for name, number in elements(spec, rows).items())
    return 1e-6 * (multiplied + others)


def convolution_ns(c: Convolution, curves: Calibration) -> float:
    """Return the nanoseconds of one convolution on one image; its width is the mean of both sides'."""
    pixels = c.side**2
    return pixels * c.kernel**2 * c.inputs * c.outputs * curves.ns_per_mac("conv", sqrt(c.inputs * c.outputs), pixels)


def elements(spec: EncoderSpec, tokens: int) -> dict[Literal["gelu", "softmax", "norm"], int]:
    """Return how many elements of a token go through what is no product."""
    return {
        "gelu": sum(layer.ffn for layer in spec.layers),
        "softmax": sum(layer.heads * tokens for layer in spec.layers),
        "norm": (2 * len(spec.layers) + 1) * spec.width,
    }


def products(spec: EncoderSpec, tokens: int) -> Iterator[tuple[int, int]]:
    """Yield (in, out) of every product that each token takes part in: linear layers, scores and their sums."""
    if spec.words is not None:
        yield spec.words, spec.embedding or spec.width
    if spec.embedding is not None:
        yield spec.embedding, spec.width
    for layer in spec.layers:
        qk, value = layer.heads * layer.qk, layer.heads * layer.value
        yield from ((spec.width, qk), (spec.width, qk), (spec.width, value), (value, spec.width))
        yield from ((layer.qk, tokens), (tokens, layer.value)) * layer.heads
        yield from ((spec.width, layer.ffn), (layer.ffn, spec.width))
