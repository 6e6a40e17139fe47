"""README.md of an exported folder: the model card that the Hugging Face hub shows, with metadata that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import Template
from typing import Any

from rmtkd_edge.export.markdown import fence, plain, table
from rmtkd_edge.export.origin import SCRATCH, Origin, public_name
from rmtkd_edge.run.records.export import ExportRecord, VariantRecord
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.tasks.base import find_task

HERE = '"path/to/this/folder"'
MEANINGS = {  # of the outputs, by how a task predicts: a title, what is said of their names, a limit, what agrees
    "embedding": ("Output", "", "It gives embeddings near the original's", "a cosine of 0.99 or more"),
    "argmax": ("Labels", "", "It knows the labels above and no others", "same prediction"),
    "sign": ("Labels", "Any number of: ", "It knows the labels above and no others", "same labels"),
    "none": ("Output", "One number: ", "It gives numbers like those that it was trained on", "same number up to 1 %"),
}
DTYPES = {"int8": "q8", "fp16": "fp16", "fp32": "fp32"}  # as transformers.js calls them


def card(record: ExportRecord, origin: Origin, repo: str = "") -> str:
    """Return the model card of an exported folder.

    Args:
        repo: its id on the hub, where it has one.
    """
    title, told, *_ = _meaning(record)
    parts = [
        f"---\n{metadata(record, origin)}---",
        f"# {plain(record.model_id)}",
        _summary(record, origin),
        f"## {title}",
        told + ", ".join(plain(label) for label in record.labels) if record.labels else _unnamed(record),
        "## Files and quality",
        *_quality(record),
        "## Latency",
        *_latency(record, origin.profiles),
        *_sessions(record),
        "## Use",
        *_usage(record, origin, repo),
        "## How it was made",
        _making(record, origin),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(record)),
        "## Licence",
        _licence(origin),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _meaning(record: ExportRecord) -> tuple[str, str, str, str]:
    task = find_task(record.kind)
    return MEANINGS[task.head if task.head in MEANINGS else task.prediction]


def _unnamed(record: ExportRecord) -> str:
    return "An embedding of the whole text." if find_task(record.kind).head == "embedding" else "None."


def metadata(record: ExportRecord, origin: Origin) -> str:
    """Return the metadata as YAML."""
    from huggingface_hub import ModelCardData

    hub = find_task(record.kind).hub
    results = [] if hub is None else list(_results(record, origin, hub.pipeline_tag))
    data = ModelCardData(
        license=origin.license,
        library_name="onnx",
        pipeline_tag=None if hub is None else hub.pipeline_tag,
        base_model=origin.base_model or None,
        datasets=[origin.dataset] if origin.dataset else None,
        metrics=[record.metric],
        tags=["onnx", "onnxruntime", "transformers.js", "rmtkd-edge", *([origin.method] if origin.method else [])],
        model_name=record.model_id if results else None,
        eval_results=results or None,
    )
    return f"{data.to_yaml().rstrip()}\n"


def shipped(record: ExportRecord) -> dict[str, VariantRecord]:
    """Return the files that ship, by precision."""
    return {name: variant for name, variant in record.variants.items() if variant.refused is None}


def _results(record: ExportRecord, origin: Origin, task: str) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    for precision, variant in shipped(record).items():
        if (scores := variant.reported) is not None:
            yield EvalResult(
                task_type=task,
                dataset_type=origin.dataset or record.task,
                dataset_name=record.task,
                dataset_split=scores.split,
                metric_type=scores.primary,
                metric_name=f"{scores.primary} ({precision})",
                metric_value=round(scores.value, 6),
            )


def _summary(record: ExportRecord, origin: Origin) -> str:
    kind, data = plain(record.kind), plain(record.task)
    if record.parameters == record.teacher_parameters:
        return f"A {kind} model for {data} with {record.parameters:,} parameters, as ONNX."
    how = f" by {plain(origin.method)}" if origin.method else ""
    return (
        f"A {kind} model for {data}, compressed{how} from {record.teacher_parameters:,} to {record.parameters:,} "
        f"parameters ({record.reduction:.1%} fewer), as ONNX."
    )


def _score(scores: Scores | None) -> str:
    if scores is None:
        return "no labelled rows"
    factor, unit, digits = (100, " %", 2) if scores.percent else (1, "", 4)
    value = f"{factor * scores.value:.{digits}f}{unit}"
    if scores.interval is not None:
        value += f" ({' to '.join(f'{factor * end:.{digits}f}' for end in scores.interval)})"
    return f"{value}, {scores.rows:,} rows"


def _quality(record: ExportRecord) -> list[str]:
    rows = [
        [name, v.file, f"{v.size_bytes / 1e6:.2f}", _score(v.test) if v.test else "no test split", _score(v.validation)]
        for name, v in shipped(record).items()
    ]
    header = ("precision", "file", "MB", f"{plain(record.metric)}, test", f"{plain(record.metric)}, validation")
    lines = [table(header, rows)]
    lines.append("In brackets the 95 % interval over rows. Validation chose among models, test was only reported.")
    refused = [f"There is no {name} file: {plain(v.refused)}." for name, v in record.variants.items() if v.refused]
    return lines + refused


def _latency(record: ExportRecord, profiles: Sequence[ProfileRecord]) -> list[str]:
    files = {variant.sha256: name for name, variant in shipped(record).items()}
    rows = [
        [
            f"{profile.title} ({profile.profile})",
            files[result.model.sha256],
            result.workload,
            _milliseconds(result.latency.p50),
            _milliseconds(result.latency.p90),
            result.verdict,
        ]
        for profile in profiles
        if not profile.emulated
        for result in profile.results
        if result.model.sha256 in files
    ]
    if not rows:
        return ["Not measured on any device; `rmtkd-edge profile RUN --on PROFILE` measures it."]
    head = ("device", "precision", "one call", "p50 ms", "p90 ms", "verdict of the measurement")
    return [table(head, rows), "Where the verdict is not `clean`, something disturbed the measurement."]


def _sessions(record: ExportRecord) -> list[str]:
    if not record.sessions:
        return []
    rows = [[name, tuned.model, tuned.workload, tuned] for name, tuned in record.sessions.items()]
    return ["Session settings of onnxruntime that were tried:", table(("device", "file", "one call", "fastest"), rows)]


def _milliseconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _usage(record: ExportRecord, origin: Origin, repo: str) -> list[str]:
    hub = find_task(record.kind).hub
    if hub is None:
        return [fence(f"import rmtkd_edge\n\nmodel = rmtkd_edge.load({HERE})", "python")]
    files = shipped(record)
    precision = "int8" if "int8" in files else "fp32"
    values = {
        "folder": f'huggingface_hub.snapshot_download("{repo}")' if repo else HERE,
        "repo": repo or "path/to/this/folder",
        "file": files[precision].file,
        "name": files[precision].file.rpartition("/")[2],
        "precision": precision,
        "dtype": DTYPES[precision],
    }
    parts = []
    for client in hub.clients(origin.columns):
        code = Template(client.code).substitute(values)
        if repo and "huggingface_hub." in code:
            code = f"import huggingface_hub\n{code}"
        parts += [f"{client.title}:", fence(code, client.language)]
    return parts


def _making(record: ExportRecord, origin: Origin) -> str:
    check, graph = record.verification, record.graph
    source = {"": "a model in memory", SCRATCH: "random weights"}.get(origin.source, plain(public_name(origin.source)))
    trained = ", trained on this data before it was compressed" if origin.trained and origin.source else ""
    *_, same = _meaning(record)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
    rows: list[Sequence[object]] = [
        ["method", origin.method or "none: this is the original"] if origin.source else ["method", "not recorded"],
        ["seed", "not recorded" if origin.seed is None else origin.seed],
        ["graph", f"{graph.get('name', 'fast')}, opset {graph.get('opset', 'not recorded')}"],
        ["onnxruntime", f"{record.onnxruntime} or later" if record.onnxruntime else "not recorded"],
        ["folded torch model against the projected one", f"{check.fold_float32:.1e} of the largest output"],
        ["ONNX file (fp32) against the folded torch model", f"{check.onnx_float32:.1e}, {check.rows} held-out rows"],
        *([f"{name} file against it", _difference(v, same)] for name, v in shipped(record).items() if name != "fp32"),
        ["made with", versions],
    ]
    return f"From {source}{trained}, by rmtkd-edge (RMT-KD, arXiv 2509.15724).\n\n{table(('what', 'value'), rows)}"


def _difference(variant: VariantRecord, same: str) -> str:
    return f"{variant.relative_difference or 0:.1e}, {same} on {variant.agreement:.1%} of the rows"


def _limits(record: ExportRecord) -> list[str]:
    _, _, limit, _ = _meaning(record)
    lines = [f"{limit}, and was measured on {plain(record.task)} alone."]
    if record.max_length is not None:
        lines.append(f"Texts are cut off after {record.max_length} tokens.")
    if "int8" in shipped(record):
        lines.append("int8 results differ between processors: check them on yours.")
    if "rmtkd.safetensors" in record.files:
        lines.append("Its widths are uneven: `AutoModel.from_pretrained` cannot rebuild the torch model.")
    return lines + [f"{plain(note)}." for note in record.notes]


def _licence(origin: Origin) -> str:
    if origin.license is not None:
        return f"That of the source model: {plain(origin.license)}."
    if origin.source == SCRATCH:
        return "None is stated: the weights were trained from random ones. Add `license:` to the metadata to state one."
    return "None is stated, since none was found with the source model: look it up before this is published."
