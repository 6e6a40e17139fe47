"""Selected channels: what they carry, and that a longer order begins with the shorter one."""

import scipy.linalg
import torch

from rmtkd_edge.spectral.pivots import PivotOrder


def moment(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and their second moment."""
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x.T @ x / rows


def test_selected_channels_carry_what_the_rest_repeats():
    few, _ = moment(500, 4)
    x = torch.cat([few, few @ moment(4, 6)[0] * 0.1], 1)
    kept = x[:, PivotOrder(x.T @ x / len(x)).first(4)]
    rest = torch.linalg.lstsq(kept, x).solution
    assert float((kept @ rest - x).abs().max()) < 1e-8


def test_the_order_is_that_of_pivoted_qr():
    x, second = moment(200, 30)
    assert PivotOrder(second).first(30) == scipy.linalg.qr(x.numpy(), mode="r", pivoting=True)[1].tolist()


def test_an_order_that_grows_is_the_one_found_at_once():
    _, second = moment(20, 50)
    weights = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grown = PivotOrder(second, weights)
    lengths = (3, 1, 17, 40, 5, 50)
    assert [grown.first(n) for n in lengths] == [PivotOrder(second, weights).first(n) for n in lengths]


def test_more_channels_than_the_moment_has_directions_are_all_different():
    _, second = moment(20, 50)
    assert len(set(PivotOrder(second).first(35))) == 35
