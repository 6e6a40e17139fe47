"""Streaming moments against one-shot numpy, and over processes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.errors import DataError, UserError
from rmtkd_edge.spectral import CrossMoments, Moments, norm_scaled
from rmtkd_edge.spectral import moments as module


def rows(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) + 0.5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.sampled_from([None, 1, 3]), st.integers(0, 99))
def test_any_split_of_the_rows_gives_the_moments_of_all(sizes, heads, seed):
    sizes = [*sizes, 1]
    x = rows(sum(sizes), 6, seed)
    moments = Moments(6, heads=heads)
    for part in x.split(sizes):
        moments.add(part)
    full = (x.T @ x / len(x)).numpy()
    blocks = (
        full
        if heads is None
        else np.stack([full[i : i + 6 // heads, i : i + 6 // heads] for i in range(0, 6, 6 // heads)])
    )
    np.testing.assert_allclose(moments.second(), blocks, rtol=1e-12)
    np.testing.assert_allclose(moments.mean(), x.mean(0), rtol=1e-12)
    assert moments.count == len(x)


def test_chunks_make_no_difference(monkeypatch):
    x = rows(50, 4)
    one, many = Moments(4), Moments(4)
    one.add(x)
    monkeypatch.setattr(module, "CHUNK", 7)
    many.add(x)
    torch.testing.assert_close(one.second(), many.second(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("panel", [1, 4, 7, 64])
def test_panels_make_no_difference(monkeypatch, panel):
    x, y, weights = rows(40, 11), rows(40, 3, 1), torch.rand(40, dtype=torch.float64)
    monkeypatch.setattr(module, "PANEL", panel)
    moments, cross = Moments(11), CrossMoments(11, 3)
    moments.add(x)
    cross.add(x, y, weights)
    torch.testing.assert_close(moments.second(), x.T @ x / 40, rtol=1e-12, atol=1e-12)
    assert torch.equal(moments.second(), moments.second().T)
    # the weighted least squares of another library
    design = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], 1) * weights.sqrt()[:, None]
    expected = np.linalg.lstsq(design.numpy(), (y * weights.sqrt()[:, None]).numpy(), rcond=None)[0]
    weight, bias = cross.solve(0.0)
    np.testing.assert_allclose(np.vstack([weight.numpy().T, bias.numpy()]), expected, atol=1e-9)


def test_covariance_is_centred():
    x = rows(200, 6)
    expected = np.cov(x.numpy().T, bias=True)
    plain, heads = Moments(6), Moments(6, heads=2)
    plain.add(x)
    heads.add(x)
    np.testing.assert_allclose(plain.covariance(), expected, atol=1e-12)
    np.testing.assert_allclose(heads.covariance()[1], expected[3:, 3:], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_rows_are_accumulated_in_float64(dtype):
    x = rows(300, 5, dtype=dtype)
    moments = Moments(5)
    moments.add(x.requires_grad_())
    expected = x.detach().double().T @ x.detach().double() / 300
    assert moments.second().dtype == torch.float64 and not moments.second().requires_grad
    torch.testing.assert_close(moments.second(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_values_are_named_and_leave_the_sums_alone(bad):
    moments = Moments(4, name="layer.0.ffn")
    moments.add(rows(8, 4))
    before = moments.second()
    x = rows(8, 4)
    x[5, 2] = bad
    with pytest.raises(DataError, match=r"layer\.0\.ffn: 1 of 32 .* row 5, feature 2"):
        moments.add(x)
    assert moments.count == 8 and torch.equal(moments.second(), before)


def test_misuse_is_refused():
    with pytest.raises(DataError, match="No rows"):
        Moments(3).second()
    with pytest.raises(DataError, match="heads"):
        Moments(7, heads=2)
    for x in (torch.zeros(3), torch.zeros(2, 4), torch.zeros(2, 2, 3), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(DataError, match="shape"):
            Moments(3).add(x)
    with pytest.raises(DataError, match="No rows"):
        CrossMoments(2, 2).solve()
    with pytest.raises(DataError, match="against"):
        CrossMoments(2, 2).add(torch.zeros(3, 2), torch.zeros(4, 2))


def test_norm_scaled_rows_have_one_norm():
    x = rows(10, 16) * torch.logspace(-3, 3, 10, dtype=torch.float64)[:, None]
    x[4] = 0
    norm = norm_scaled(x).norm(dim=1)
    assert norm[4] == 0
    torch.testing.assert_close(norm[torch.arange(10) != 4], torch.full((9,), 4.0, dtype=torch.float64))


def cross(x: torch.Tensor, y: torch.Tensor, pieces: int = 3) -> CrossMoments:
    moments = CrossMoments(x.shape[1], y.shape[1])
    for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
        moments.add(a, b)
    return moments


def linear(n: int = 200, dx: int = 5, dy: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x = rows(n, dx)
    return x, x @ rows(dx, dy, 1) + 0.1 * rows(n, dy, 2) + torch.tensor([1.0, -20.0, 3.0], dtype=torch.float64)


def test_least_squares_agrees_with_lstsq():
    x, y = linear()
    moments = cross(x, y)
    w, b = moments.solve(ridge=0.0)
    expected = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(w, expected[:-1].T, atol=1e-9)
    np.testing.assert_allclose(b, expected[-1], atol=1e-9)
    assert moments.solver == "cholesky"


def test_ridge_is_relative_to_the_scale_of_x_and_spares_the_intercept():
    x, y = linear()
    w, b = cross(x, y).solve(ridge=0.1)
    centred = (x - x.mean(0)).numpy()
    gram = centred.T @ centred / len(x)
    penalised = gram + 0.1 * np.trace(gram) / 5 * np.eye(5)
    expected = np.linalg.solve(penalised, centred.T @ (y - y.mean(0)).numpy() / len(x)).T
    np.testing.assert_allclose(w, expected, atol=1e-10)
    w1000, b1000 = cross(1000 * x, y).solve(ridge=0.1)
    torch.testing.assert_close(1000 * w1000, w, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(b1000, b, rtol=1e-9, atol=1e-9)


def test_more_ridge_never_explains_more():
    x, y = linear()
    moments = cross(x, y)
    solved = [moments.solve(ridge) for ridge in (0.0, 1e-4, 1e-2, 1.0, 100.0)]
    errors = [float((y - x @ w.T - b).square().sum()) for w, b in solved]
    assert errors == sorted(errors)


def test_singular_inputs_say_which_solver_was_used():
    x, y = linear()
    twice = torch.cat([x, x], 1)
    moments = cross(twice, y)
    w, b = moments.solve(ridge=0.0)
    assert moments.solver == "eigh"
    torch.testing.assert_close(
        twice @ w.T + b, x @ cross(x, y).solve(0.0)[0].T + cross(x, y).solve(0.0)[1], atol=1e-6, rtol=0
    )
    constant = cross(torch.ones_like(x), y)
    w, b = constant.solve()
    assert constant.solver == "eigh" and not w.any()
    torch.testing.assert_close(b, y.mean(0))
    with pytest.raises(UserError):
        moments.solve(ridge=-1.0)


def _worker(rank: int, store: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    x, y = linear()
    parts = [slice(0, 30), slice(30, None)][rank]
    moments, pair = Moments(5), cross(x[parts], y[parts])
    moments.add(x[parts])
    moments.all_reduce()
    pair.all_reduce()
    assert moments.count == pair.count == len(x)
    torch.testing.assert_close(moments.second(), x.T @ x / len(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pair.solve()[0], cross(x, y).solve()[0], rtol=1e-9, atol=1e-9)
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch was built without torch.distributed")
def test_all_reduce_over_two_processes(tmp_path):
    torch.multiprocessing.spawn(_worker, args=(str(tmp_path / "store"),), nprocs=2)


def test_all_reduce_alone_changes_nothing():
    moments = Moments(3)
    moments.add(rows(5, 3))
    before = moments.second()
    moments.all_reduce()
    assert moments.count == 5 and torch.equal(moments.second(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_moments_stay_on_the_gpu():
    x, y = linear()
    moments, pair = Moments(5), CrossMoments(5, 3)
    moments.add(x.cuda())
    pair.add(x.cuda(), y.cuda())
    assert moments.second().is_cuda
    torch.testing.assert_close(moments.second().cpu(), x.T @ x / len(x))
    torch.testing.assert_close(pair.solve()[0].cpu(), cross(x, y).solve()[0])


def test_products_in_float32_agree_with_those_in_float64():
    mean = torch.tensor([300.0, -40.0, 0.0, 5.0, 1000.0])  # far from zero: about it, float32 would lose the variances
    x, y = (value.float() for value in linear(3000))
    x, weights = x + mean, torch.rand(3000, generator=torch.Generator().manual_seed(0))
    pairs = [CrossMoments(5, 3, ridge=ridge) for ridge in (0.0, 1e-4)]
    for moments in pairs:
        for part in zip(x.split(1700), y.split(1700), weights.split(1700), strict=True):
            moments.add(*part)
    for intercept in (True, False):
        exact, single = (moments.solve(1e-4, intercept=intercept) for moments in pairs)
        torch.testing.assert_close(single, exact, rtol=1e-5, atol=1e-5)
    before = pairs[1].solve()
    pairs[1].all_reduce()
    torch.testing.assert_close(pairs[1].solve(), before, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(pairs[1].mean_targets(), pairs[0].mean_targets(), rtol=1e-6, atol=1e-6)


def test_float64_rows_keep_their_precision():
    x, y = linear()
    moments = CrossMoments(5, 3, ridge=1e-6)
    moments.add(x, y)
    torch.testing.assert_close(moments.solve(1e-6), cross(x, y).solve(1e-6), rtol=1e-12, atol=1e-12)


def test_products_in_float32_need_a_ridge():
    moments = CrossMoments(2, 2, ridge=1e-4)
    moments.add(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(UserError, match="1e-06"):
        moments.solve(0.0)
