"""The closed form of a vision transformer: exact where nothing is lost, and better than folding alone elsewhere."""

from __future__ import annotations

import pytest
import torch
from families.vit.sample import images, ours
from torch import Tensor

from rmtkd_edge.families.layers import along_outputs
from rmtkd_edge.families.vit.fold import plain_fold, producers
from rmtkd_edge.families.vit.module import VisionTransformer
from rmtkd_edge.families.vit.positions import position_weights
from rmtkd_edge.families.vit.warm_start import turned, warm_start

EXACT = 1e-6


def orthonormal(rows: int, width: int, seed: int = 3) -> Tensor:
    """Return random orthonormal rows whose channels sum to zero."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(width, rows, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn - drawn.mean(0))[0].T


@torch.no_grad()
def redundant(**settings: str | int) -> tuple[VisionTransformer, dict[str, Tensor]]:
    """Return a teacher that needs fewer channels than it has at every site, and projections on those it needs."""
    teacher = ours(**settings).double()  # type: ignore[arg-type]
    needed = orthonormal(9, 24)
    last = torch.linalg.svd(needed)[2][-1:]  # what the student's norms take off
    found = {"stream": torch.cat([needed, last])}
    for layer in producers(teacher)["stream"]:
        for parameter in layer.parameters():
            parameter.copy_(along_outputs(needed.T @ needed, parameter))
    for layer in teacher.layers:
        for kind, parts, rank in (("qk", (layer.query,), 4), ("value", (layer.value,), 5)):
            blocks = torch.block_diag(*(orthonormal(rank, 8, seed) for seed in range(3)))
            for part in parts:
                for parameter in part.parameters():
                    parameter.copy_(blocks.T @ blocks @ parameter)
            found[f"{layer.name}.{kind}"] = blocks
        layer.down.weight[:, 30:] = 0.0
        found[f"{layer.name}.ffn"] = torch.eye(40, dtype=torch.float64)[:30]
    return teacher, found


def narrowed(teacher: VisionTransformer, projections: dict[str, Tensor], ridge: float = 1e-12) -> VisionTransformer:
    fitted = [images(32, seed).double() for seed in range(6)]
    weights = position_weights(teacher, [{"pixel_values": fitted[0]}], 0.3)
    return warm_start(teacher, projections, fitted, weights, ridge=ridge, seed=0)


@torch.no_grad()
def error(model: VisionTransformer, teacher: VisionTransformer) -> float:
    x = images(16, 99).double()
    a, b = model.eval()(x), teacher.eval()(x)
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("settings", [{}, {"pool": "mean", "tokens": 0}, {"model_type": "deit", "tokens": 2}], ids=str)
def test_nothing_is_lost_where_there_was_nothing(settings: dict[str, str | int]) -> None:
    teacher, projections = redundant(**settings)
    for names in (["stream"], [n for n in projections if n != "stream"], [*projections]):
        chosen = {name: projections[name] for name in names}
        student = narrowed(teacher, chosen)
        assert student.spec.count_parameters() < teacher.spec.count_parameters()
        assert error(student, teacher) < EXACT, names


def test_folding_alone_is_exact_where_the_mean_of_the_channels_is_not_needed() -> None:
    teacher, projections = redundant()
    projections["stream"] = turned(projections["stream"])
    exact = {name: p for name, p in projections.items() if not name.endswith("qk")}  # a cut query needs its key
    assert error(plain_fold(teacher, exact), teacher) < EXACT


def test_nothing_cut_is_nothing_changed() -> None:
    teacher = ours().double()
    assert error(narrowed(teacher, {}), teacher) == error(plain_fold(teacher, {}), teacher) == 0.0


def test_layers_before_the_first_cut_stay_as_they_are() -> None:
    teacher, projections = redundant()
    student = narrowed(teacher, {"layer.1.ffn": projections["layer.1.ffn"][:12]})
    changed = ("layers.1", "norm", "classifier")
    kept = {name: value for name, value in teacher.state_dict().items() if not name.startswith(changed)}
    assert kept and all(torch.equal(student.state_dict()[name], value) for name, value in kept.items())


def test_least_squares_lose_less_than_folding() -> None:
    teacher = ours().double()
    cut = {"stream": orthonormal(16, 24), "layer.0.ffn": torch.eye(40, dtype=torch.float64)[:20]}
    assert error(narrowed(teacher, cut, ridge=1e-4), teacher) < 0.8 * error(plain_fold(teacher, cut), teacher)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_turned_basis_spans_the_same_and_has_its_mean_along_the_last_row(rows: int) -> None:
    p = orthonormal(rows, 12)
    q = turned(p)
    assert torch.allclose(q @ q.T, torch.eye(rows, dtype=q.dtype)) and torch.allclose(q.T @ q, p.T @ p)
    assert torch.allclose(q.sum(0), rows**0.5 * p[-1])


def test_positions_count_by_their_effect() -> None:
    model = ours()
    weights = position_weights(model, [{"pixel_values": images()}], 0.25)
    assert weights.shape == (3, 17) and torch.allclose(weights.mean(1), torch.ones(3))
    assert torch.allclose(weights[-1, 1:], torch.full((16,), 0.25))  # the classifier reads the class token alone
    assert (position_weights(model, [], 1.0) == 1).all()
