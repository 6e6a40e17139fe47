"""Run a file of standard ONNX with OpenVINO on the processor: `python run_openvino.py JOB ANSWER` (see running.py)."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino


def main() -> None:
    """Answer a job."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # else it takes bfloat16 where the processor has it
    model = core.compile_model(str(Path(job["folder"], job["file"])), "CPU")
    names = [item.any_name for item in model.inputs]
    outputs = []
    for path in job["inputs"]:
        with np.load(path) as inputs:
            outputs.append(model({name: inputs[name] for name in names})[0].tolist())
    answer = {"outputs": outputs, "versions": {"openvino": version("openvino")}}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
