"""The closed form: exact where it can be, better with more rank, better than folding alone."""

import itertools
from dataclasses import replace

import pytest
import torch

from rmtkd_edge.families.base import list_sites
from rmtkd_edge.families.encoder.distance_fit import closest_table, projected_table
from rmtkd_edge.families.encoder.fold import plain_fold
from rmtkd_edge.families.encoder.half_layers import Cut
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import Disentangled, EncoderSpec, LayerSpec
from rmtkd_edge.families.encoder.teacher_states import TeacherStates
from rmtkd_edge.families.encoder.warm_start import warm_start
from rmtkd_edge.families.norm_fit import NormFit
from rmtkd_edge.families.tokens import token_weights
from rmtkd_edge.spectral import CrossMoments


def make_teacher(embedding=None, seed=0, **changes) -> Encoder:
    torch.manual_seed(seed)
    layers = (LayerSpec(2, 6, 6, 20, 6**-0.5), LayerSpec(2, 6, 6, 20, 6**-0.5))
    spec = EncoderSpec("bert", 50, 16, 2, 12, layers, 12, ("a", "b", "c"), embedding_size=embedding, dropout=0.0)
    spec = replace(spec, **changes)
    teacher = Encoder(spec).eval()
    for name, p in teacher.named_parameters():
        torch.nn.init.normal_(p, std=0.4)
        if "norm" in name and name.endswith("weight"):
            p.data.add_(1.0)
    return teacher


SHARED = {"layers": (LayerSpec(2, 6, 6, 20, 6**-0.5),), "repeats": 3}  # as ALBERT's
RELATIVE = {"relative_positions": True}  # as MPNet's
DISTANCES = {"disentangled": Disentangled(5, 5, 16, True, True, True)}  # as DeBERTa's
OWN = {"disentangled": replace(DISTANCES["disentangled"], shared=False)}


def make_batches(count=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        ids = torch.randint(1, 50, (16, 10), generator=generator)
        mask = torch.ones_like(ids)
        lengths = torch.randint(4, 11, (16,), generator=generator)
        mask[torch.arange(10)[None] >= lengths[:, None]] = 0
        batches.append({"input_ids": ids * mask, "attention_mask": mask})
    return batches


def permutation(width: int, seed: int) -> torch.Tensor:
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    return torch.eye(width, dtype=torch.float64)[order]


def logits(model, batches):
    with torch.no_grad():
        return torch.cat([model(b["input_ids"], b["attention_mask"]) for b in batches])


def error(model, teacher, batches) -> float:
    want = logits(teacher, batches)
    return float((logits(model, batches) - want).pow(2).mean() / want.var())


def eigen_projections(teacher, ranks, batches):
    """Projections on the leading directions of random data are enough to test the algebra."""
    found = {}
    for site in list_sites(teacher.spec):
        k = ranks.get(site.kind)
        if k:
            generator = torch.Generator().manual_seed(len(site.name))
            blocks = []
            for _ in range(site.heads):
                basis = torch.linalg.qr(torch.randn(site.width, site.width, generator=generator, dtype=torch.float64))[
                    0
                ]
                blocks.append(basis[:k])
            found[site.name] = torch.block_diag(*blocks)
    return found


def test_nothing_cut_changes_nothing():
    teacher, batches = make_teacher(), make_batches(2)
    student = warm_start(TeacherStates(teacher, batches), {}, ridge=1e-6)
    torch.testing.assert_close(logits(student, batches), logits(teacher, batches), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes", [{}, SHARED, RELATIVE, DISTANCES, OWN], ids=["plain", "shared", "relative", "distances", "own"]
)
@pytest.mark.parametrize("embedding", [None, 7])
@pytest.mark.parametrize("blend", [1.0, 0.3])
def test_a_permutation_of_every_site_is_exact(embedding, blend, changes):
    teacher, batches = make_teacher(embedding, **changes), make_batches()
    projections = {}
    for i, site in enumerate(list_sites(teacher.spec)):
        projections[site.name] = torch.block_diag(*[permutation(site.width, i + h) for h in range(site.heads)])
    student = warm_start(
        TeacherStates(teacher, batches), projections, ridge=1e-9, weights=token_weights(teacher, batches, blend)
    )
    assert error(student, teacher, make_batches(3, seed=9)) < 1e-4


def test_no_other_table_of_distances_has_closer_keys_and_queries():
    teacher, generator = make_teacher(**DISTANCES), torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    p = torch.linalg.qr(draw(12, 8))[0].T
    decoders = {layer.name: (p.T + 0.2 * draw(12, 8), 0.2 * draw(12)) for layer in teacher.layers}
    cut = Cut({"stream": p}, p, p.float(), 1e-6, None, decoders=decoders)
    rows = teacher.relative.embeddings.weight.double()

    def far(table):
        gaps = [(layer, table @ decoders[layer.name][0].T + decoders[layer.name][1] - rows) for layer in teacher.layers]
        return sum(
            float((gap @ linear.weight.double().T).pow(2).sum())
            for layer, gap in gaps
            for linear in (layer.query, layer.key)
        )

    with torch.no_grad():
        found, projected = closest_table(teacher, cut), projected_table(teacher, cut)
        assert far(found) < 0.9 * far(projected)
        assert all(far(found) < far(found + 0.1 * draw(*found.shape)) for _ in range(20))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("value", {}), ("qk", {}), ("qk", DISTANCES), ("qk", OWN)],
    ids=["v", "qk", "distances", "own"],
)
def test_cutting_to_the_true_rank_is_exact(kind, changes):
    teacher, batches = make_teacher(**changes), make_batches()
    with torch.no_grad():
        for layer in teacher.layers:  # every head of rank 3 instead of 6
            sides = ((layer.query, layer.distance_query), (layer.key, layer.distance_key))
            for modules in sides if kind == "qk" else ((layer.value,),):
                basis = torch.linalg.qr(torch.randn(6, 6))[0][:3]
                narrow = torch.block_diag(*[basis.T @ basis] * 2)
                for module in (x for x in modules if x is not None):
                    module.weight.copy_(narrow @ module.weight)
                    module.bias.copy_(narrow @ module.bias)
    projections = {}
    for i in range(2):
        source = teacher.layers[i].value if kind == "value" else teacher.layers[i].query
        blocks = [torch.linalg.svd(w.detach().double())[0][:, :3].T for w in source.weight.chunk(2)]
        projections[f"layer.{i}.{kind}"] = torch.block_diag(*blocks)
    student = warm_start(TeacherStates(teacher, batches), projections, ridge=1e-9)
    assert student.spec.layers[0].value == (3 if kind == "value" else 6)
    assert error(student, teacher, make_batches(3, seed=9)) < 1e-4


def test_more_rank_never_means_more_error():
    teacher, batches = make_teacher(), make_batches(40)
    errors = []
    for k in (2, 6, 10, 12):
        per_head = max(1, k // 2)
        projections = eigen_projections(
            teacher, {"stream": k, "ffn": 20 * k // 12, "value": per_head, "qk": per_head, "pooler": k}, batches
        )
        errors.append(error(warm_start(TeacherStates(teacher, batches), projections, ridge=1e-6), teacher, batches))
    assert all(a > b - 0.02 for a, b in itertools.pairwise(errors)), errors


@pytest.mark.parametrize(
    "changes", [{}, SHARED, RELATIVE, DISTANCES, OWN], ids=["plain", "shared", "relative", "distances", "own"]
)
def test_the_fit_beats_folding_alone(changes):
    teacher, batches = make_teacher(**changes), make_batches(40)
    projections = eigen_projections(teacher, {"stream": 8, "ffn": 14, "value": 4, "qk": 4, "pooler": 8}, batches)
    fitted = warm_start(TeacherStates(teacher, batches), projections, ridge=1e-6)
    assert error(fitted, teacher, batches) < error(plain_fold(teacher, projections).eval(), teacher, batches)


def test_layers_before_the_cut_keep_their_weights():
    teacher, batches = make_teacher(), make_batches()
    projections = {"layer.1.ffn": permutation(20, 3)[:11]}
    student = warm_start(TeacherStates(teacher, batches), projections, ridge=1e-6)
    for name, value in teacher.layers[0].state_dict().items():
        torch.testing.assert_close(student.layers[0].state_dict()[name], value)


def test_weights_follow_the_effect_on_the_logits():
    teacher, batches = make_teacher(), make_batches(4)
    found = token_weights(teacher, batches, 0.0)
    assert found.table[-1, 0] == found.table[-1, 1] == 0 < found.table[-1, 2]  # only the first token reaches the pooler
    weights = [found.of(batch) for batch in batches]
    for depth in range(len(found.table)):
        valid = [w[depth][b["attention_mask"].bool()] for w, b in zip(weights, batches, strict=True)]
        assert float(torch.cat(valid).mean()) == pytest.approx(1.0, rel=1e-4)
    assert token_weights(teacher, batches, 1.0) is None


def test_least_squares_is_numpys_and_norm_fit_is_polyfit():
    import numpy as np

    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(200, 5)), rng.normal(size=(200, 3)), rng.uniform(0.1, 2, 200)
    fit = CrossMoments(5, 3)
    for part in np.array_split(np.arange(200), 7):
        fit.add(torch.tensor(x[part]), torch.tensor(y[part]), torch.tensor(w[part]))
    weight, bias = fit.solve(1e-12)
    design = np.c_[x, np.ones(200)] * np.sqrt(w)[:, None]
    want = np.linalg.lstsq(design, y * np.sqrt(w)[:, None], rcond=None)[0]
    np.testing.assert_allclose(weight.numpy(), want[:5].T, atol=1e-8)
    np.testing.assert_allclose(bias.numpy(), want[5], atol=1e-8)
    norm = NormFit(1)
    norm.add(torch.tensor(x[:, :1]), torch.tensor(y[:, :1]))
    gamma, beta = norm.solve()
    slope, shift = np.polyfit(x[:, 0], y[:, 0], 1)
    assert float(gamma) == pytest.approx(slope) and float(beta) == pytest.approx(shift)


def with_thin_words(teacher: Encoder, rank: int) -> torch.Tensor:
    """Make the words' embeddings an affine image of `rank` numbers; return a basis (rank + 1, d) of what they span."""
    width = teacher.embeddings.word.weight.shape[1]
    with torch.no_grad():
        rows = torch.randn(50, rank) @ torch.randn(rank, width) + torch.randn(width)
        teacher.embeddings.word.weight.copy_(rows)
    return torch.linalg.svd(rows.double())[2][: rank + 1]


@pytest.mark.parametrize(("embedding", "changes"), [(None, {}), (7, {}), (7, SHARED)])
def test_words_of_a_low_rank_keep_their_embeddings_exactly(embedding, changes):
    teacher, batches = make_teacher(embedding, **changes), make_batches()
    p = with_thin_words(teacher, 3)
    student = warm_start(TeacherStates(teacher, batches), {"embedding": p}, ridge=1e-9)
    assert student.spec.embedding_rank == 4
    assert student.spec.count_parameters() < teacher.spec.count_parameters()
    assert error(student, teacher, make_batches(3, seed=9)) < 1e-4
    again = warm_start(TeacherStates(student, batches), {"embedding": p[:3] @ p.T @ p @ p.T}, ridge=1e-9)
    assert again.spec.embedding_rank == 3
    other = warm_start(
        TeacherStates(student, batches), {"layer.0.ffn": permutation(20, 1)}, ridge=1e-9
    )  # the table stays
    assert error(other, teacher, make_batches(3, seed=9)) < 1e-4


def test_words_and_stream_can_be_cut_together_and_one_after_the_other():
    teacher, batches = make_teacher(), make_batches()
    words, stream = with_thin_words(teacher, 3), eigen_projections(teacher, {"stream": 8}, batches)
    alone = error(warm_start(TeacherStates(teacher, batches), stream, ridge=1e-9), teacher, batches)
    both = warm_start(TeacherStates(teacher, batches), {**stream, "embedding": words}, ridge=1e-9)
    assert both.spec.embedding_rank == 4 and error(both, teacher, batches) == pytest.approx(alone, abs=1e-3)
    first = warm_start(TeacherStates(teacher, batches), {"embedding": words}, ridge=1e-9)
    then = warm_start(TeacherStates(first, batches), stream, ridge=1e-9)
    assert then.spec.embedding_rank == 4 and error(then, teacher, batches) == pytest.approx(alone, abs=1e-3)
    narrower = warm_start(TeacherStates(first, batches), eigen_projections(teacher, {"stream": 4}, batches), ridge=1e-9)
    assert narrower.spec.embedding_rank is None  # a table of 4 for a stream of 4 is a plain one


@pytest.mark.parametrize("later", [8, 4])
def test_folding_alone_cuts_words_too(later):
    teacher, batches = make_teacher(), make_batches(2)
    first = plain_fold(teacher, {"embedding": with_thin_words(teacher, 3)})
    assert error(first, teacher, batches) < 1e-6
    then = plain_fold(first, eigen_projections(teacher, {"stream": later}, batches))
    assert then.spec.embedding_rank == (4 if later == 8 else None) and torch.isfinite(logits(then, batches)).all()


def test_states_in_bf16_are_nearly_those_in_float32_and_fit_as_well():
    teacher, batches = make_teacher().float(), make_batches()
    exact, rounded = (TeacherStates(teacher, batches, precision=precision) for precision in ("no", "bf16"))
    for some, other in zip(exact.sums(), rounded.sums(), strict=True):
        for x, y in zip(some, other, strict=True):
            assert y.dtype == torch.float32 and 0 < float((x - y).norm() / x.norm()) < 0.02
    projections = eigen_projections(teacher, {"stream": 8}, batches)
    original = logits(teacher, batches)
    students = [warm_start(states, projections, ridge=1e-6) for states in (exact, rounded)]
    lost = [float((logits(own, batches) - original).norm()) for own in students]
    assert lost[1] < 1.1 * lost[0]
