"""From a folded encoder and calibration batches to narrowed ones, for as many cuts as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from rmtkd_edge.families.base import Batches, NarrowOptions
from rmtkd_edge.families.encoder.fold import plain_fold
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.teacher_states import TeacherStates
from rmtkd_edge.families.encoder.warm_start import warm_start
from rmtkd_edge.families.tokens import token_weights

WEIGHED = 4  # every fourth row of the effect batches tells what tokens count: three kinds of token need few


def narrower(
    model: Encoder, batches: Batches, effect: Batches, options: NarrowOptions, *, keep: bool = False
) -> Callable[[Mapping[str, Tensor]], Encoder]:
    """Return what narrows a folded encoder by its projections: by least squares, or by algebra alone.

    Args:
        keep: hold the teacher's states on the batches for the next cut, see `TeacherStates`.
    """
    if options.compress.warm_start == "fold":
        return partial(plain_fold, model)
    few = ({name: rows[::WEIGHED] for name, rows in batch.items()} for batch in effect())
    weights = token_weights(model, few, options.compress.token_blend)
    states = TeacherStates(model, batches(), keep=keep, precision=options.precision)
    return lambda projections: warm_start(states, projections, ridge=options.compress.ridge, weights=weights)
