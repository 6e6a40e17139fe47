"""The closed form: exact where it can be, better than folding alone, better with more rank; and a model that learns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from families.modernbert.sample import make_batches, make_model
from torch import Tensor

from rmtkd_edge.config.recipe import Analyse, Compress
from rmtkd_edge.families.base import AnalyseOptions, NarrowOptions, find_family, list_sites
from rmtkd_edge.families.modernbert.module import ModernBert
from rmtkd_edge.spectral import CrossMoments

FAMILY = find_family("modernbert")
BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)


def narrow(teacher: ModernBert, projections: Mapping[str, Tensor], **options: Any) -> ModernBert:
    batches = make_batches(20)
    how = NarrowOptions(Compress(**{"ridge": 1e-9, **options}), 0)
    return FAMILY.narrow(teacher, projections, lambda: batches, lambda: batches[:2], how).eval()


def logits(model: ModernBert, batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(b["input_ids"], b["attention_mask"]) for b in batches])


def error(model: ModernBert, teacher: ModernBert) -> float:
    wanted = logits(teacher, make_batches())
    return float((logits(model, make_batches()) - wanted).pow(2).mean() / wanted.var())


def eigen(teacher: ModernBert, ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """Return projections on the leading directions of the family's own analysis, all of them projected."""
    sites = [site for site in list_sites(teacher.spec) if site.kind in ranks]
    options = AnalyseOptions(Analyse(), False, 0, lambda outputs, batch: (outputs * torch.arange(3.0)).sum())
    spectra = FAMILY.analyse(teacher, sites, make_batches, make_batches, options)
    return {s.site.name: torch.block_diag(*(rows[: ranks[s.site.kind]] for rows in s.directions)) for s in spectra}


@pytest.mark.parametrize("start", ["least-squares", "fold"])
@pytest.mark.parametrize("changes", [{}, BIASES, {"classifier_pooling": "mean"}], ids=["plain", "biases", "mean"])
def test_a_permutation_of_every_site_is_exact(start: str, changes: dict[str, Any]) -> None:
    teacher, generator, projections = make_model(**changes), torch.Generator().manual_seed(0), {}
    for site in list_sites(teacher.spec):
        eyes = [torch.eye(site.width, dtype=torch.float64) for _ in range(site.heads)]
        projections[site.name] = torch.block_diag(
            *(eye[torch.randperm(site.width, generator=generator)] for eye in eyes)
        )
    assert error(narrow(teacher, projections, warm_start=start), teacher) < 1e-6


def test_a_stream_that_is_not_full_is_cut_almost_without_loss() -> None:
    """A narrow norm leaves out the mean of the wide one, and sizes follow: what is lost is how sizes vary."""
    teacher = make_model()
    with torch.no_grad():  # all that the stream ever holds, and all that is read of it, lies in 9 of 16 channels
        for module in (teacher.embeddings.norm, teacher.norm, *(layer.norm2 for layer in teacher.layers)):
            module.weight[9:] = 0
        for layer in teacher.layers:
            layer.out.weight[9:], layer.down.weight[9:] = 0, 0
    wide = torch.eye(16, dtype=torch.float64)
    assert error(narrow(teacher, {"stream": wide[:9]}), teacher) < 0.3 * error(
        narrow(teacher, {"stream": wide[7:]}), teacher
    )


def test_a_value_of_low_rank_is_cut_exactly() -> None:
    teacher, projections = make_model(), {}
    with torch.no_grad():
        for layer in teacher.layers:
            bases = [torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0][:3] for _ in range(layer.heads)]
            p = torch.block_diag(*bases)
            layer.value.weight.copy_((p.T @ p).float() @ layer.value.weight)
            projections[f"{layer.name}.value"] = p
    student = narrow(teacher, projections)
    assert student.spec.layers[0].value == 3 and error(student, teacher) < 1e-6


def test_a_silent_channel_of_the_gated_network_is_cut_exactly() -> None:
    teacher = make_model()
    with torch.no_grad():
        for layer in teacher.layers:
            layer.up.weight[::3] = 0
    spectra = FAMILY.analyse(
        teacher,
        [site for site in list_sites(teacher.spec) if site.kind == "ffn"],
        make_batches,
        None,
        AnalyseOptions(Analyse(), True, 0, lambda outputs, batch: outputs.sum()),
    )
    for spectrum in spectra:
        assert spectrum.activated is not None and (spectrum.activated.diagonal() == 0).nonzero().flatten().tolist() == [
            *range(0, 24, 3)
        ]
    kept = torch.eye(24, dtype=torch.float64)[[i for i in range(24) if i % 3]]
    assert error(narrow(teacher, {f"layer.{i}.ffn": kept for i in range(4)}), teacher) < 1e-6


def test_the_fit_beats_folding_alone_and_more_rank_is_no_worse() -> None:
    teacher, errors = make_model(), []
    for k in (4, 8, 12, 16):
        projections = eigen(teacher, {"stream": k, "ffn": 24 * k // 16, "value": k // 2, "pooler": k})
        errors.append(error(narrow(teacher, projections, ridge=1e-6), teacher))
        assert errors[-1] < error(narrow(teacher, projections, warm_start="fold"), teacher) + 1e-6
    assert all(a > b - 0.02 for a, b in itertools.pairwise(errors)), errors


def test_layers_before_the_cut_keep_their_weights() -> None:
    teacher = make_model()
    student = narrow(teacher, {"layer.2.ffn": torch.eye(24, dtype=torch.float64)[:7]}).state_dict()
    same = {name for name, value in teacher.state_dict().items() if torch.equal(student.get(name), value)}  # type: ignore[arg-type]
    assert same >= {name for name in student if name.startswith(("embeddings.", "layers.0.", "layers.1."))}
    assert "layers.2.down.weight" not in same


def test_a_fit_without_an_intercept_is_numpys() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 1, (50, 3)), rng.normal(2, 1, (50, 2))
    fit = CrossMoments(3, 2)
    fit.add(torch.from_numpy(x), torch.from_numpy(y))
    weight, bias = fit.solve(0.0, intercept=False)
    np.testing.assert_allclose(weight.T, np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-10)
    assert not bias.any()


@pytest.mark.parametrize(
    "analyse",
    [
        Analyse(rule="parallel"),
        Analyse(rule="parallel", weighting="none", scale_columns=True),
        Analyse(effective_samples=True, center=True),
        Analyse(sample="sequence", tokens_per_sequence=1),
    ],
    ids=["parallel", "plain", "effective", "sequence"],
)
@pytest.mark.parametrize("select", [True, False], ids=["select", "project"])
def test_every_way_to_analyse_gives_spectra(analyse: Analyse, select: bool) -> None:
    teacher = make_model()
    options = AnalyseOptions(analyse, select, 0, lambda outputs, batch: outputs[:, 0].sum())
    for spectrum in FAMILY.analyse(teacher, list_sites(teacher.spec), make_batches, make_batches, options):
        assert len(spectrum.fit(analyse, 0.3)) == spectrum.site.heads and spectrum.n >= 96
        assert (spectrum.n_eff is not None) == analyse.effective_samples
        assert (spectrum.null_eigenvalues is not None) == (analyse.rule == "parallel")
        rows = spectrum.directions
        assert torch.allclose(rows @ rows.mT, torch.eye(rows.shape[1], dtype=rows.dtype), atol=1e-9)
