"""How well a latency budget can be kept by a device's curves: predicted against measured latency, on this machine.

    python tools/bench_prediction.py --out results.json

The curves are measured first (as `rmtkd-edge calibrate` does), then every model (random weights: time does not depend
on them) as it would be exported, in turn over several rounds. What counts is the ratio of two models of one family: a
budget is kept by cutting a model whose own latency is known.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from shapes import cut, encoder_spec, random_model, resnet_spec

from rmtkd_edge.compress.latency import measure_ms
from rmtkd_edge.config.hardware import Calibration, HardwareProfile, load_profile
from rmtkd_edge.config.recipe import Export
from rmtkd_edge.families.base import Spec, family_of
from rmtkd_edge.profile.calibrate import MIN_SECONDS, CurveOptions, MeasuredCurves, calibrate
from rmtkd_edge.run.reporter import SilentReporter


def shapes() -> dict[str, Spec]:
    """Return the models, the uncut one of each family first; a cut one's name has a comma."""
    small = encoder_spec(
        vocab_size=1000, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    net = cut(resnet_spec(18, labels=2), {"inner": 0.5, "stream": 0.5})  # 32 channels in the first stage
    narrow = {"stream": 160, "pooler": 160, "qk": 16, "value": 16, "ffn": 640}
    return {
        "MiniLM-L6": small,
        "MiniLM-L6, FFN x 0.5": cut(small, {"ffn": 0.5}),
        "MiniLM-L6, all x 0.5": cut(small, dict.fromkeys(narrow, 0.5)),
        "MiniLM-L6, stream 160": cut(small, narrow),
        "ResNet-18 (32)": net,
        "ResNet-18 (32), inner x 0.5": cut(net, {"inner": 0.5}),
        "ResNet-18 (32), all x 0.5": cut(net, {"inner": 0.5, "stream": 0.5}),
    }


def calibration_of(profile: HardwareProfile, found: MeasuredCurves) -> Calibration:
    """Return measured curves as a profile holds them."""
    return Calibration(
        profile=profile.name,
        provider=profile.provider,
        processor="this",
        onnxruntime="this",
        threads=profile.threads or 1,
        contended=len(found.contended),
        conv=found.curves["conv"],
        gemm=found.curves["gemm"],
        conv_sizes=found.sizes["conv"],
        gemm_sizes=found.sizes["gemm"],
        conv_few_sizes=found.sizes["conv_few"],
        ns_per_element=found.ns_per_element,
    )


def main() -> None:
    """Measure curves and models, and print predicted next to measured latency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=MIN_SECONDS, help="a width of the curves, at least")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    profile = load_profile("local-cpu").model_copy(update={"threads": args.threads})
    found = calibrate(profile, SilentReporter(), options=CurveOptions(min_seconds=args.seconds))
    curves = calibration_of(profile, found)
    tokens, specs = min(profile.workloads.seq), shapes()
    measured: dict[str, list[float]] = {name: [] for name in specs}
    for _ in range(args.rounds):
        for name, spec in specs.items():
            measured[name].append(measure_ms(family_of(spec), random_model(spec), Export(), profile))
    rows, first = [], ""
    for name, spec in specs.items():
        first = name if "," not in name else first
        family = family_of(spec)
        mine, base = statistics.median(measured[name]), statistics.median(measured[first])
        predicted, whole = (family.predict_ms(shape, curves, tokens) for shape in (spec, specs[first]))
        row = {
            "model": name,
            "measured_ms": round(mine, 3),
            "predicted_ms": round(predicted, 3),
            "predicted_over_measured": round(predicted / mine, 3),
            "speedup_measured": round(base / mine, 2),
            "speedup_predicted": round(whole / predicted, 2),
        }
        rows.append(row)
    out = {"threads": args.threads, "rounds": args.rounds, "contended_widths": len(found.contended), "rows": rows}
    print(json.dumps(out, indent=1))
    if args.out:
        args.out.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
