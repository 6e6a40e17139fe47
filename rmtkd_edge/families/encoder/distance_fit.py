"""The table of distances of a narrowed encoder, in closed form.

Where distances go through the layers of tokens, these read what is decoded for tokens, of which some directions are
lost: a row that is merely projected then has the keys and queries of another. So the rows are solved for, once it is
known how every layer decodes tokens, and the layers are fitted again with them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rmtkd_edge.families.encoder.distances import DistanceEmbeddings
from rmtkd_edge.families.encoder.half_layers import Cut
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.low_rank import Linear
from rmtkd_edge.spectral import CrossMoments

PRIOR = 1e-4  # share of the mean square that counts for the projected rows


def projected_table(teacher: Encoder, cut: Cut) -> Tensor | None:
    """Return the table, projected as the stream is, float64; None for a model without one."""
    if not isinstance(teacher.relative, DistanceEmbeddings):
        return None
    return teacher.relative.embeddings.weight.double().cpu() @ cut.stream64.T.cpu()


def closest_table(teacher: Encoder, cut: Cut) -> Tensor | None:
    """Return the rows whose keys and queries are closest to the teacher's in all layers that were fitted.

    None where the projected ones are as good: the stream is not cut, or distances have layers of their own.
    """
    shape, wide, start = teacher.spec.disentangled, teacher.relative, projected_table(teacher, cut)
    if shape is None or start is None or not shape.shared or "stream" not in cut.projections:
        return None
    assert isinstance(wide, DistanceEmbeddings), "there is a table"
    table = wide.embeddings.weight.double().cpu()
    squares, products = torch.zeros(len(start.T), len(start.T), dtype=torch.float64), torch.zeros_like(start)
    for layer in teacher.layers:
        decode, shift = cut.decoders[layer.name]
        for used, linear in ((layer.c2p, layer.key), (layer.p2c, layer.query)):
            if used:
                weight = linear.weight.double().cpu()
                through = weight @ decode
                squares += through.T @ through
                products += (table @ weight.T - weight @ shift) @ through
    prior = PRIOR * squares.diagonal().mean()
    squares = squares + prior * torch.eye(len(squares), dtype=torch.float64)
    return torch.linalg.solve(squares, (products + prior * start).T).T


def set_table(teacher: Encoder, student: Encoder, cut: Cut, table: Tensor) -> Linear:
    """Set a student's table and return what decodes the teacher's from it, for layers that distances have alone."""
    wide, narrow = teacher.relative, student.relative
    assert isinstance(wide, DistanceEmbeddings) and isinstance(narrow, DistanceEmbeddings), "both have a table"
    narrow.embeddings.weight.copy_(table)
    if "stream" not in cut.projections:
        return cut.stream64, cut.stream64.new_zeros(len(cut.stream64))
    fit = CrossMoments(*cut.stream.shape)
    fit.add(table, wide.embeddings.weight.double().cpu())
    return fit.solve(cut.ridge)
