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
from typing import Any

import torch

from rmtkd_edge.budget import latency_ms
from rmtkd_edge.families.encoder.cost import predicted_ms
from rmtkd_edge.families.resnet.module import ConvNet
from rmtkd_edge.families.resnet.spec import ConvNetSpec
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.resnet.sources import resnet_spec
from rmtkd_edge.families.encoder.spec import EncoderSpec, LayerSpec
from rmtkd_edge.config.hardware import Calibration, load_profile
from rmtkd_edge.profile.calibrate import calibrate
from rmtkd_edge.config.recipe import load_recipe


def encoder(layers: int, width: int, heads: int, head: int, ffn: int) -> EncoderSpec:
    """Return an encoder's shape."""
    one = LayerSpec(heads, head, head, ffn, head**-0.5)
    return EncoderSpec("bert", 1000, 512, 2, width, (one,) * layers, width, ("a", "b"))


def shapes() -> dict[str, EncoderSpec | ConvNetSpec]:
    """Return the models, the uncut one of each family first."""
    net = resnet_spec(18, ("a", "b"), width=32, stem="cifar", image_size=32)
    inner = {s.name: s.width // 2 for s in net.sites() if s.kind == "inner"}
    every = {s.name: s.width // 2 for s in net.sites() if s.kind in ("inner", "stream")}
    return {
        "MiniLM-L6": encoder(6, 384, 12, 32, 1536),
        "MiniLM-L6, FFN x 0.5": encoder(6, 384, 12, 32, 768),
        "MiniLM-L6, all x 0.5": encoder(6, 192, 12, 16, 768),
        "MiniLM-L6, stream 160": encoder(6, 160, 12, 16, 640),
        "ResNet-18 (32)": net,
        "ResNet-18 (32), inner x 0.5": net.with_ranks(inner),
        "ResNet-18 (32), all x 0.5": net.with_ranks(every),
    }


def model_of(spec: EncoderSpec | ConvNetSpec) -> Any:
    """Return a model with random weights."""
    torch.manual_seed(0)
    model = Encoder(spec) if isinstance(spec, EncoderSpec) else ConvNet(spec)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    profile = load_profile("local-cpu").model_copy(update={"threads": args.threads})
    found = calibrate(profile)
    curves = Calibration(
        profile="local-cpu", provider=profile.provider, processor="this", onnxruntime="this", threads=args.threads,
        contended=len(found.contended), conv=found.curves["conv"], gemm=found.curves["gemm"],
        conv_sizes=found.sizes["conv"], gemm_sizes=found.sizes["gemm"], conv_few_sizes=found.sizes["conv_few"],
        ns_per_element=found.ns_per_element,
    )  # fmt: skip
    tokens, specs = min(profile.workloads.seq), shapes()
    measured: dict[str, list[float]] = {name: [] for name in specs}
    recipes = {kind: load_recipe(name) for kind, name in (("text", "minilm-sst2"), ("image", "resnet18-cifar10"))}
    for _ in range(args.rounds):
        for name, spec in specs.items():
            kind = "text" if isinstance(spec, EncoderSpec) else "image"
            measured[name].append(latency_ms(model_of(spec), recipes[kind], profile))
    rows, first = [], ""
    for name, spec in specs.items():
        first = name if "," not in name else first
        mine, base = statistics.median(measured[name]), statistics.median(measured[first])
        predicted, whole = predicted_ms(spec, curves, tokens), predicted_ms(specs[first], curves, tokens)
        rows.append({
            "model": name, "measured_ms": round(mine, 3), "predicted_ms": round(predicted, 3),
            "predicted_over_measured": round(predicted / mine, 3), "speedup_measured": round(base / mine, 2),
            "speedup_predicted": round(whole / predicted, 2),
        })  # fmt: skip
    out = {"threads": args.threads, "rounds": args.rounds, "contended_widths": len(found.contended), "rows": rows}
    print(json.dumps(out, indent=1))
    if args.out:
        args.out.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
