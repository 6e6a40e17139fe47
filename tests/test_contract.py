"""What every family and method must do, ours, installed ones, and those of tests/third_party."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from config.test_curves import curves
from contract_sample import (
    bases,
    batches_of,
    cases,
    found,
    load_case,
    outputs_shape,
    projected,
    randomised,
    recipe_of,
    serves,
    task_for,
    third_party,
    with_head,
)
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from rmtkd_edge.compress.ranks.output_layer import fit_output_layer
from rmtkd_edge.compress.ranks.projection import projection
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.compress.training.teacher_outputs import seen
from rmtkd_edge.config.recipe import Analyse, Compress, Export, Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.export.audit import audit_emitted, audit_optimised
from rmtkd_edge.export.fold_proof import fold_with_proof
from rmtkd_edge.export.half import to_half
from rmtkd_edge.export.portable import make_portable
from rmtkd_edge.export.verify import bisect, compare_onnx, verify_onnx
from rmtkd_edge.families.base import (
    AnalyseOptions,
    Family,
    NarrowOptions,
    QuantiseOptions,
    call,
    family_of,
    find_family,
    list_sites,
    ranks_from,
    ranks_of,
    spec_from_dict,
)
from rmtkd_edge.families.defaults import FamilyDefaults
from rmtkd_edge.families.store import load_folder, save_folder
from rmtkd_edge.methods.base import Cut, Objective, Pair, find_method, reduction, shape_of
from rmtkd_edge.methods.matching import matching
from rmtkd_edge.methods.students import layers_of
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.sessions import open_session, run_session
from rmtkd_edge.tasks.base import Task, find_task, tasks_of


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the third-party package is installed to while this file runs."""
    with third_party(tmp_path_factory.mktemp("site")) as folder:
        yield folder


@dataclass(frozen=True)
class Case:
    """A family's small folded model with one of its heads, and one with projections at every site."""

    family: Family
    task: Task[Any]
    teacher: Any
    projected: Any
    projections: dict[str, Tensor]
    batches: list[dict[str, Tensor]]


@pytest.fixture(scope="module", params=cases())
def case(request: pytest.FixtureRequest, site: Path, tiny_tokenizer: Path) -> Case:
    name, _, head = request.param.partition(":")
    family = find_family(name.partition("/")[0])
    teacher = randomised(with_head(family, load_case(name, tiny_tokenizer), head or "row"))
    cut = bases(teacher.spec)
    return Case(
        family, task_for(family, head or "row"), teacher, projected(family, teacher, cut), cut, batches_of(teacher.spec)
    )


@dataclass(frozen=True)
class Shipped:
    """A family's folded model as it ships, and its ONNX file in one of the graphs."""

    case: Case
    model: Any
    path: Path
    options: Export

    def settle(self, path: Path) -> Path:
        if self.options.graph == "portable":
            make_portable(path)
        return path


@pytest.fixture(scope="module")
def fast(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    folded, _ = fold_with_proof(case.projected, case.batches)
    model, path = case.family.standardise(folded), tmp_path_factory.mktemp("onnx") / "model.onnx"
    options = Export(graph="fast")
    assert case.family.export(model, path, options, {"rmtkd_task": "toy"}) == [path]
    return Shipped(case, model, path, options)


@pytest.fixture(scope="module", params=["fast", "portable"])
def shipped(request: pytest.FixtureRequest, fast: Shipped, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    if request.param == "fast":
        return fast
    case, model, options = fast.case, fast.model, Export(graph="portable")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    if type(case.family).export is FamilyDefaults.export:  # it writes the same for every graph
        shutil.copy(fast.path, path)
    else:
        assert case.family.export(model, path, options, {"rmtkd_task": "toy"}) == [path]
    made = Shipped(case, model, path, options)
    made.settle(path)
    return made


# --- families: shapes ---


def test_names_and_kinds_are_those_that_a_recipe_checks(case: Case) -> None:
    family, spec = case.family, case.teacher.spec
    assert spec.family == family.name and find_family(family.name) is family is family_of(case.teacher)
    assert {site.kind for site in spec.sites()} <= {*family.site_kinds}
    assert {*family.default_sites} <= {*family.site_kinds} and "width" in family.modes and family.samples
    assert find_task(family.default_task) in tasks_of(family.modality) and family.sample_keys and family.shape()
    assert case.family.sites_to_cut(spec, Compress()) and family.describe_source(recipe_of(family.name, Path("x")))
    assert len({site.name for site in spec.sites()}) == len(spec.sites())


def test_parameters_are_counted_without_a_model(case: Case) -> None:
    for model in (case.teacher, case.family.fold(case.projected)):
        assert model.spec.count_parameters() == sum(p.numel() for p in model.parameters())
        assert not model.spec.raw


def test_the_body_is_what_neither_labels_nor_words_change(case: Case) -> None:
    spec = case.teacher.spec
    body = spec.count_body_parameters()
    if body is None:
        pytest.skip("the family does not tell them apart")
    assert 0 < body < spec.count_parameters()
    for more in ({"labels": (*spec.labels, "one more")}, {"vocab": getattr(spec, "vocab", 0) + 7}):
        if hasattr(spec, *more) and not ("labels" in more and not spec.labels):
            other = replace(spec, **more)
            assert other.count_parameters() > spec.count_parameters() and other.count_body_parameters() == body


def test_every_site_makes_the_model_smaller(case: Case) -> None:
    spec = case.teacher.spec
    for site in spec.sites():
        narrow = spec.with_ranks({site.name: 1})
        assert narrow.count_parameters() < spec.count_parameters() and ranks_of(narrow)[site.name] == 1
        assert site.width > 1 and spec.with_ranks(ranks_of(spec)) == spec


def test_a_spec_survives_json(case: Case) -> None:
    for spec in (case.teacher.spec, case.projected.spec, case.projected.spec.with_projections({})):
        assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert {*case.projected.spec.raw} == {*case.projections}


def test_example_inputs_run_in_every_size(case: Case) -> None:
    spec = case.teacher.spec
    for batch, sequence in ((1, None), (3, 7)):
        inputs = spec.example_inputs(batch, sequence if spec.max_length else None, 0)
        assert list(inputs) == [item.name for item in spec.inputs]
        for item in spec.inputs:
            sizes = zip(inputs[item.name].shape, item.shape, strict=True)
            assert inputs[item.name].dtype == item.dtype and all(isinstance(b, str) or a == b for a, b in sizes)
        with torch.no_grad():
            outputs = call(case.teacher, {name: torch.from_numpy(value) for name, value in inputs.items()})
        tokens = next(iter(inputs.values())).shape[1]
        assert outputs.shape == outputs_shape(spec, batch, tokens) and outputs.isfinite().all()


def test_padded_inputs_have_rows_of_different_lengths(case: Case) -> None:
    if case.teacher.spec.max_length is None:
        pytest.skip("the model reads no sequences")
    inputs = case.teacher.spec.padded_inputs(4, 6, 0)
    assert list(inputs) == [item.name for item in case.teacher.spec.inputs]
    lengths = inputs["attention_mask"].sum(1)
    assert lengths.max() == 6 and lengths.min() == 3 and (np.diff(inputs["attention_mask"]) <= 0).all()
    with torch.no_grad():
        assert call(case.teacher, {name: torch.from_numpy(value) for name, value in inputs.items()}).isfinite().all()


@pytest.mark.parametrize("name", found("families"))
def test_a_family_is_found_without_torch(name: str, site: Path) -> None:
    program = (
        "import sys; from rmtkd_edge.families.base import find_family; "
        f"family = find_family({name!r}); family.shape(); print('torch' in sys.modules)"
    )
    path = os.pathsep.join([str(site), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_curves_give_a_narrower_model_less_time(case: Case) -> None:
    wide, narrow = (
        case.family.predict_ms(m.spec, curves(), 32) for m in (case.teacher, case.family.fold(case.projected))
    )
    assert 0 < narrow < wide


@pytest.mark.parametrize("graph", ["fast", "portable"])
def test_files_are_predicted_smaller_with_the_width_and_in_int8(case: Case, graph: Any) -> None:
    wide, narrow = case.teacher.spec, case.family.fold(case.projected).spec
    sizes = {p: [case.family.file_bytes(spec, p, graph) for spec in (wide, narrow)] for p in ("fp32", "int8")}
    assert all(after < before for before, after in sizes.values())
    assert all(a < b for a, b in zip(sizes["int8"], sizes["fp32"], strict=True))
    assert sizes["fp32"][0] >= 3.9 * wide.count_parameters()


# --- families: cutting ---


def test_fold_and_unfold_are_exact(case: Case) -> None:
    _, proof = fold_with_proof(case.projected, case.batches)
    assert proof.holds and proof.float64 < 1e-12 and proof.float32 < 1e-5
    kept = case.family.projections(case.projected)
    assert kept.keys() == case.projections.keys()
    assert all(torch.equal(kept[name], p.to(kept[name])) for name, p in case.projections.items())
    again = case.family.fold(case.family.unfold(case.family.fold(case.projected), case.projections))
    assert again.spec == case.projected.spec.with_projections({})
    once = case.family.fold(case.projected).state_dict()
    assert all(torch.allclose(value, once[name], atol=1e-5) for name, value in again.state_dict().items())


@pytest.mark.parametrize("select", [True, False], ids=["select", "project"])
def test_spectra_lead_to_a_narrow_model(case: Case, select: bool) -> None:
    """Analyse -> projection -> narrow -> unfold -> fold proof."""
    family, teacher = case.family, case.teacher
    names = family.sites_to_cut(teacher.spec, Compress())
    sites = [site for site in list_sites(teacher.spec) if site.name in names]
    task = case.task
    options = AnalyseOptions(Analyse(), select, 0, lambda outputs, batch: task.probe(outputs, dict(batch), 0))
    spectra = family.analyse(teacher, sites, lambda: case.batches, lambda: case.batches[:2], options)
    assert [spectrum.site for spectrum in spectra] == sites
    projections = {}
    for spectrum in spectra:
        site = spectrum.site
        assert spectrum.n > 1 and spectrum.eigenvalues.shape == (site.heads, site.width)
        assert (spectrum.eigenvalues >= 0).all() and (spectrum.eigenvalues[:, :-1] >= spectrum.eigenvalues[:, 1:]).all()
        assert (spectrum.activated is not None) == (select and site.selectable)
        assert len(spectrum.fit(options.analyse, 0.2)) == site.heads
        p = projection(spectrum, max(1, site.width // 2), Compress())
        assert torch.allclose(p @ p.T, torch.eye(len(p), dtype=p.dtype), atol=1e-9)
        projections[site.name] = p
    narrow = family.narrow(
        teacher, projections, lambda: case.batches, lambda: case.batches[:2], NarrowOptions(Compress(), 0)
    ).eval()
    assert narrow.spec == teacher.spec.with_ranks(ranks_from(teacher.spec, projections)) and not narrow.spec.raw
    wide = family.unfold(narrow, projections)
    folded, proof = fold_with_proof(wide, case.batches)
    assert proof.holds and folded.spec == narrow.spec
    wide.train()
    wide.set_dropout(0.0)
    task.loss(call(wide, case.batches[0]), case.batches[0]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in wide.parameters())


def test_nothing_cut_is_nothing_changed(case: Case) -> None:
    batches = lambda: case.batches
    same = case.family.narrow(case.teacher, {}, batches, batches, NarrowOptions(Compress(), 0)).eval()
    with torch.no_grad():
        a, b = (call(model, case.batches[0]) for model in (case.teacher, same))
    assert same.spec == case.teacher.spec and (a - b).abs().max() < 1e-2 * a.abs().max()


def test_the_output_layer_is_fitted_to_the_divergence_from_the_teacher(case: Case) -> None:
    student = copy.deepcopy(case.teacher)
    layer = student.output_layer
    if layer is not None:
        made: list[Tensor] = []
        layer.register_forward_hook(lambda module, args, out: made.append(out))
        torch.testing.assert_close(call(student, case.batches[0]), made[0])
        with torch.no_grad():
            layer.weight.add_(0.3 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)))
            layer.bias.add_(0.5)
    rest = {name: value.clone() for name, value in student.state_dict().items() if not name.startswith("classifier.")}

    def apart() -> float:
        with torch.no_grad():
            pairs = [(call(case.teacher, batch), call(student, batch), batch) for batch in case.batches]
        return sum(float(case.task.divergence(old, new, batch=batch)) for old, new, batch in pairs)

    before, notes = apart(), list[str]()
    context = SimpleNamespace(
        data=SimpleNamespace(warm=lambda: case.batches, judged=lambda: case.batches),
        task=case.task,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        report=lambda kind, text: notes.append(text),
    )
    fit_output_layer(context, case.teacher, student)
    assert apart() < 0.5 * before if layer is not None else apart() == before
    assert len(notes) == (layer is not None) and all("fitted to it" in note for note in notes)
    now = student.state_dict()
    assert all(torch.equal(now[name], value) for name, value in rest.items())


def test_a_smaller_vocabulary_changes_no_output(case: Case) -> None:
    if "vocabulary" not in case.family.offers:
        pytest.skip("the family reads no tokens")
    kept = [*range(5), *range(6, case.teacher.spec.vocab, 2)]  # the padding token is among the first
    fewer = case.family.with_vocabulary(case.teacher, kept)
    assert fewer.spec.count_parameters() < case.teacher.spec.count_parameters()
    batch = case.batches[0]
    ids = batch["input_ids"] % len(kept)
    with torch.no_grad():
        new = call(fewer, {**batch, "input_ids": ids})
        old = call(case.teacher, {**batch, "input_ids": torch.tensor(kept)[ids]})
    assert torch.equal(new, old)


def test_many_cuts_of_one_model_are_the_cuts_one_by_one(case: Case) -> None:
    family, teacher, batches = case.family, case.teacher, lambda: case.batches
    names = family.sites_to_cut(teacher.spec, Compress())
    widths = {site.name: (site.width, site.heads) for site in list_sites(teacher.spec) if site.name in names}

    def cut(share: int) -> dict[str, torch.Tensor]:
        eye = lambda width: torch.eye(width, dtype=torch.float64)[: max(1, width // share)]
        return {name: torch.block_diag(*[eye(width)] * heads) for name, (width, heads) in widths.items()}

    narrower = family.narrower(teacher, batches, batches, NarrowOptions(Compress(), 0))
    anew = type(family).narrower is FamilyDefaults.narrower  # every time, so that one cut says all
    for projections in (cut(2), {names[-1]: cut(2)[names[-1]]}, cut(4), {}, cut(2))[: 1 if anew else None]:
        many = narrower(projections)
        once = family.narrow(teacher, projections, batches, batches, NarrowOptions(Compress(), 0))
        assert many.spec == once.spec
        for name, tensor in once.state_dict().items():
            assert torch.equal(many.state_dict()[name], tensor), name


def test_settled_widths_are_widths_of_the_same_sites(case: Case) -> None:
    chosen = {name: 2 for name in case.family.sites_to_cut(case.teacher.spec, Compress())}
    settled = case.family.settle(case.teacher.spec, Compress(), None, 4)(dict(chosen))
    assert settled.keys() == chosen.keys() and all(width >= 2 for width in settled.values())


# --- families: export ---


def test_onnxruntime_computes_what_torch_does_in_every_shape(shipped: Shipped) -> None:
    task = shipped.case.task
    shapes = task.verification_batches(shipped.case.batches, shipped.model.spec)
    proof = verify_onnx(shipped.path, shipped.model, shapes, task, threads=1)
    assert proof.relative < 1e-4 and proof.agreement == 1.0 and len(proof.shapes) >= 2


def test_the_graph_has_the_operators_that_the_shape_demands(shipped: Shipped) -> None:
    assert audit_emitted(shipped.path, shipped.model.spec, shipped.options).expected
    audit_optimised(shipped.path, shipped.model.spec, shipped.options, "fp32")


@pytest.fixture(scope="module")
def portable(shipped: Shipped, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The portable files of a family by precision."""
    if shipped.options.graph != "portable":
        pytest.skip("other runtimes read portable graphs")
    folder = tmp_path_factory.mktemp("portable")
    to_half(shipped.path, folder / "half.onnx")
    shipped.case.family.quantise(shipped.path, folder / "int8.onnx", shipped.case.batches, QuantiseOptions(True, 1))
    made = {name: shipped.settle(folder / f"{name}.onnx") for name in ("half", "int8")}
    return {"fp32": shipped.path, **made}


CLOSE = {"fp32": 1e-5, "half": 2e-2, "int8": 2e-2}  # of the largest output


def shapes_and_outputs(shipped: Shipped, path: Path) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yield inputs of several shapes, padded rows among them, and what onnxruntime computes of them."""
    task, session = shipped.case.task, open_session(path, threads=1)
    for batch in task.verification_batches(shipped.case.batches[:1], shipped.model.spec):
        yield {item.name: batch[item.name].numpy() for item in session.get_inputs()}, run_session(session, batch)


@pytest.mark.parametrize("precision", CLOSE)
def test_a_portable_graph_is_standard_onnx(shipped: Shipped, portable: dict[str, Path], precision: str) -> None:
    model = onnx.load(str(portable[precision]))
    assert {item.domain for item in model.opset_import} == {""} and model.ir_version == 8
    onnx.checker.check_model(model, full_check=True)
    if precision == "int8":  # the evaluator has no DequantizeLinear of opsets 13 to 18; that of 19 adds types alone
        model.opset_import[0].version = 19
    evaluator = ReferenceEvaluator(model)
    for inputs, wanted in shapes_and_outputs(shipped, portable[precision]):
        found = evaluator.run(None, inputs)[0]
        assert np.abs(found - wanted).max() < CLOSE[precision] * np.abs(wanted).max()


@pytest.mark.parametrize("precision", CLOSE)
def test_openvino_computes_a_portable_graph(shipped: Shipped, portable: dict[str, Path], precision: str) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}  # else bf16 on some
    compiled = openvino.Core().compile_model(str(portable[precision]), "CPU", settings)
    for inputs, wanted in shapes_and_outputs(shipped, portable[precision]):
        found = compiled(inputs)[0]
        assert np.abs(found - wanted).max() < 10 * CLOSE[precision] * np.abs(wanted).max()


def test_int8_is_close_and_has_its_operators(shipped: Shipped, tmp_path: Path) -> None:
    case, path = shipped.case, tmp_path / "int8.onnx"
    how = case.family.quantise(shipped.path, path, case.batches, QuantiseOptions(True, 1))
    assert how["reduce_range"] is True and how["calibration_rows"] == sum(len(b["index"]) for b in case.batches)
    audit_optimised(shipped.settle(path), shipped.model.spec, shipped.options, "int8")
    task = case.task
    assert 0 < compare_onnx(open_session(path, threads=1), shipped.model, case.batches, task).relative < 0.3


def test_the_graph_knows_every_site_that_has_a_tap(shipped: Shipped) -> None:
    family, spec = shipped.case.family, shipped.model.spec
    values = family.graph_values(onnx.load(str(shipped.path)), spec)
    if not values:
        pytest.skip("the family tells a wrong export by its outputs alone")
    taps: dict[str, Tensor] = {}
    call(shipped.model, shipped.case.batches[0], taps.__setitem__)
    there = {site.name for site in spec.sites() if not site.latent}
    tapped = {family.site_of(tap) for tap in taps} & there
    assert tapped and tapped <= {family.site_of(tap) for tap in values}
    found = bisect(shipped.path, shipped.model, shipped.case.batches[0], threads=1)
    assert found[-1].tap == "logits" and all(item.relative < 1e-4 for item in found)


def test_weights_go_to_names_that_ship_and_back(shipped: Shipped) -> None:
    family, model = shipped.case.family, shipped.model
    state = family.from_tensors(model.spec, family.tensors(model))
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    config = json.loads(json.dumps(family.config(model.spec, "toy")))
    assert config["model_type"] == model.spec.model_type and [*config.get("id2label", {}).values()] == [
        *model.spec.labels
    ]


def test_a_folder_gives_back_every_tensor(case: Case, tmp_path: Path) -> None:
    for name, model in (("folded", case.teacher), ("projected", case.projected)):
        save_folder(tmp_path / name, model)
        again = load_folder(tmp_path / name)
        assert again.spec == model.spec and not again.training
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())


# --- methods ---


@pytest.mark.parametrize("name", found("methods"))
def test_a_method_starts_a_smaller_student_that_learns(case: Case, name: str, tiny_tokenizer: Path) -> None:
    method, family = find_method(name), case.family
    if not serves(name, family.name, tiny_tokenizer):
        pytest.skip("refused, with the families that it serves")
    recipe = recipe_of(family.name, tiny_tokenizer, compress={"method": name}, stop={"target_reduction": 0.3})
    spec = case.teacher.spec
    try:
        widths = method.widths(spec, family, recipe, 1)
    except RecipeError as err:
        assert "leaves layers out, and the teacher has 1 layer" in err.message and layers_of(spec) == 1
        pytest.skip("there are no layers to leave out")
    if widths is None:
        names = family.sites_to_cut(case.teacher.spec, recipe.compress)
        chosen = {site: p for site, p in case.projections.items() if site in names}
        cut = Cut(ranks_from(case.teacher.spec, chosen), chosen)
    else:
        assert widths.note and (widths.layers or reduction(spec, widths.by_site, spec.count_parameters()) >= 0.3)
        cut = Cut(widths.by_site, layers=widths.layers)
    batches = lambda: case.batches
    student = method.initial_student(family, case.teacher, cut, batches, batches, recipe)
    assert student.spec == shape_of(family, case.teacher.spec, cut) and not student.spec.raw
    assert student.spec.count_parameters() < case.teacher.spec.count_parameters()
    task = case.task
    rows = sum(len(batch["index"]) for batch in case.batches)
    objective = method.objective(task, recipe, Pair(family, case.teacher, student, batches, rows))

    student.train()
    with torch.no_grad():
        shown = seen(case.teacher, case.batches[0], objective.taps, spec) if objective.teacher else None
    own = seen(student, case.batches[0], objective.taps, student.spec)
    loss = objective.loss(own, case.batches[0], shown)
    loss.backward()
    assert loss.ndim == 0 and loss.isfinite()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    if not method.needs_labels:
        taught = recipe.model_copy(update={"distil": recipe.distil.model_copy(update={"alpha": 0.0})})
        objective = method.objective(task, taught, Pair(family, case.teacher, student, batches, rows))
        bare = {key: value for key, value in case.batches[0].items() if key not in task.target_names}
        assert objective.loss(own, bare, shown).isfinite()


# --- runs ---


SITES_PER_CYCLE = {"mlp": 1, "mobilenet": 20}


def compressed(path: Path, recipe: Recipe, data: Path, killed: Path | None = None) -> CompressRecord:
    """Run or continue a compression; leave at `killed` what a process that is killed after the first cycle leaves."""

    def event(kind: str, **facts: Any) -> None:
        if kind == "cycle_end" and killed is not None and not killed.exists():
            shutil.copytree(path, killed)

    run = Run.open(path) if path.exists() else Run.create(path, recipe.to_toml(), recipe.seed)
    return compress_run(run, recipe, data=data, reporter=SimpleNamespace(event=event))


def without_clocks(record: CompressRecord) -> CompressRecord:
    cycles = tuple(replace(cycle, seconds={}) for cycle in record.cycles)
    return replace(record, seconds=0.0, teacher=replace(record.teacher, seconds=0.0), cycles=cycles)


@pytest.mark.parametrize("name", found("families"))
def test_a_run_that_was_stopped_between_cycles_ends_as_one_that_was_not(
    name: str, tmp_path: Path, tiny_tokenizer: Path, tiny_data: Path, tiny_images: Path
) -> None:
    recipe = recipe_of(name, tiny_tokenizer, compress={"sites_per_cycle": SITES_PER_CYCLE.get(name, 4)})
    data = tiny_data if find_family(name).modality == "text" else tiny_images
    whole = compressed(tmp_path / "whole", recipe, data, killed=tmp_path / "stopped")
    assert len(whole.cycles) >= 2 and not (tmp_path / "stopped" / layout.cycle_record(2)).exists()
    first = (tmp_path / "stopped" / layout.cycle_record(1)).stat().st_mtime_ns
    again = compressed(tmp_path / "stopped", recipe, data)
    assert without_clocks(again) == without_clocks(whole)
    assert (tmp_path / "stopped" / layout.cycle_record(1)).stat().st_mtime_ns == first
    best = (f"{layout.BEST}/{layout.WEIGHTS}", f"{layout.BEST}/{layout.SHAPE}")
    assert all((tmp_path / "whole" / rel).read_bytes() == (tmp_path / "stopped" / rel).read_bytes() for rel in best)


def test_every_method_leaves_the_same_records(
    tmp_path: Path, tiny_tokenizer: Path, tiny_data: Path, tiny_images: Path
) -> None:
    listed = {}
    for name in found("methods"):
        family = next(f for f in ("mlp", "encoder", "resnet") if serves(name, f, tiny_tokenizer))
        sections = {"compress": {"method": name, "sites_per_cycle": 2}, "stop": {"target_reduction": 0.3}}
        recipe = recipe_of(family, tiny_tokenizer, **sections)
        data = tiny_data if find_family(family).modality == "text" else tiny_images
        record = compressed(tmp_path / name, recipe, data)
        assert record.method == name and record.reduction > 0
        files = {p.relative_to(tmp_path / name).as_posix() for p in (tmp_path / name).rglob("*.json")}
        listed[name] = {file for file in files if not file.startswith(layout.PREPROCESSING)}
    assert all({layout.RESULT, layout.TEACHER_RECORD, layout.cycle_record(1)} <= files for files in listed.values())
    assert len({frozenset(files) for files in listed.values()}) == 1


# --- tasks: tests/tasks/test_contract.py holds the rest ---


@pytest.mark.parametrize("name", found("tasks"))
def test_a_task_has_families_and_a_scorer(name: str) -> None:
    task = find_task(name)
    assert task.name == name and task.evaluation_batch > 0
    assert any(find_family(family).modality == task.modality for family in found("families"))


def test_matching_sees_what_a_projection_loses(case: Case) -> None:
    family, teacher, batch = case.family, case.teacher, case.batches[0]
    taps = family.stream_taps(teacher.spec)
    base = Objective(lambda seen, batch, teacher: seen.outputs.sum() * 0.0, teacher=False)
    folded = family.fold(case.projected)

    def loss(student: Any) -> Tensor:
        objective = matching(base, Pair(family, teacher, student, lambda: case.batches), 1.0)
        assert objective.teacher and objective.taps == taps
        return objective.loss(seen(student, batch, taps, student.spec), batch, seen(teacher, batch, taps, teacher.spec))

    if not taps:
        with pytest.raises(RecipeError, match=r"names no states to match"):
            loss(folded)
        return
    rows = family.rows(seen(teacher, batch, taps, teacher.spec).taps[taps[0]], batch)
    assert rows.ndim == 2 and len(rows) >= len(batch["index"])
    assert loss(copy.deepcopy(teacher)) < 1e-5  # nothing is lost
    worse = loss(folded)
    assert worse > 1e-3 and worse.isfinite()
    worse.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in folded.parameters())


def test_states_of_pictures_are_rows_without_a_copy(case: Case) -> None:
    family, teacher = case.family, case.teacher
    if family.modality != "image":
        pytest.skip("no pictures")
    (name,) = (item.name for item in teacher.spec.inputs)
    batch = {**case.batches[0], name: case.batches[0][name].contiguous(memory_format=torch.channels_last)}
    taps = family.stream_taps(teacher.spec)
    states = seen(teacher, batch, taps, teacher.spec).taps
    assert all(family.rows(states[tap], batch).data_ptr() == states[tap].data_ptr() for tap in taps)


def test_inner_states_come_first_for_their_share_of_the_steps(case: Case) -> None:
    family, teacher, batch = case.family, case.teacher, case.batches[0]
    taps, told = family.stream_taps(teacher.spec), list[float]()
    if not taps:
        return
    base = Objective(lambda seen, batch, teacher: seen.outputs.sum() * 0.0 + 100.0, teacher=False, on_step=told.append)
    student = family.fold(case.projected)
    pair = Pair(family, teacher, student, lambda: case.batches)
    objective = matching(base, pair, 1.0, states_first=0.5)
    assert objective.on_step is not None
    found = {}
    for done in (0.0, 0.49, 0.5, 0.99):
        objective.on_step(done)
        own, other = (seen(model, batch, taps, model.spec) for model in (student, teacher))
        found[done] = float(objective.loss(own, batch, other).detach())
    assert found[0.0] == found[0.49] < 50 and found[0.5] == found[0.99] == pytest.approx(found[0.0] + 100)
    assert told == list(found)
