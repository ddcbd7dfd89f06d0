"""Whether a network that comes from a Keras file runs as fast as the same network from timm, in float and in int8.

    taskset -c 0 python benchmarks/from_keras.py [--seconds 20]

Both have random weights, which the speed does not hang on. Each is imported and quantized by tlopt with its default
settings. All of them run in one process, in turns, each round in another order: the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image
from safetensors.torch import save_file

import tlopt
from tlopt.environment import cores, processor, versions
from tlopt.measure.speed.machine import machine_state
from tlopt.networks import vision_ops
from tlopt.timing import side_by_side

# Network of keras.applications -> the same one in timm.
NETWORKS = {"MobileNetV2": "mobilenetv2_100", "EfficientNetB0": "tf_efficientnet_b0", "DenseNet121": "densenet121"}
RESULTS = Path(__file__).parent / "results"
_MAKE = """
import sys
from tlopt.networks import vision_ops
vision_ops.declare()
import keras
keras.utils.set_random_seed(0)
getattr(keras.applications, sys.argv[1])(weights=None, classifier_activation=None).save(sys.argv[2])
"""


def from_keras(network: str, work: Path) -> Any:
    """Return the artifact of a network that Keras made and saved."""
    file = work / f"{network}.keras"
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(work)}
    subprocess.run([sys.executable, "-c", _MAKE, network, file], env=environment, check=True, capture_output=True)
    return tlopt.import_model(file, work / f"{network}-keras")


def from_timm(network: str, work: Path) -> Any:
    """Return the artifact of the same network as timm makes it."""
    vision_ops.declare()
    import timm

    weights = work / f"{network}.safetensors"
    save_file(timm.create_model(NETWORKS[network]).state_dict(), weights)
    made = tlopt.import_model(None, work / f"{network}-torch", model=f"timm:{NETWORKS[network]}", weights=weights)
    return tlopt.export(made, work / f"{network}-timm")


def noise(folder: Path, count: int = 64) -> Path:
    """Write images to calibrate on."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


def row(network: str, framework: str, artifact: Any, timing: Any) -> dict[str, Any]:
    """Return what was measured of an artifact."""
    nodes = Counter(node.op_type for node in onnx.load(artifact.payload(".onnx")).graph.node)
    return {
        "network": network, "from": framework, "precision": artifact.card.precision,
        "median_ms": round(timing.quantile_ms(0.5), 3), "runs": len(timing.runs_ms), "nodes": nodes.total(),
        "nodes_without_qdq": nodes.total() - nodes["QuantizeLinear"] - nodes["DequantizeLinear"],
        "operators": dict(nodes.most_common()),
    }  # fmt: skip


def measured(network: str, work: Path, images: Path, seconds: float) -> list[dict[str, Any]]:
    """Return the rows of a network: of both origins, in float and in int8."""
    found = []
    for framework, made in (("keras", from_keras(network, work)), ("timm", from_timm(network, work))):
        found += [(framework, made)]
        found += [(framework, tlopt.quantize(made, work / f"{network}-{framework}-int8", images=images))]
    runners = [tlopt.open_runner(artifact) for _, artifact in found]
    random = np.random.default_rng(1)
    inputs = [random.random((1, *artifact.card.preprocess.input_shape), dtype=np.float32) for _, artifact in found]
    calls = [lambda run=run, fed=fed: run(fed) for run, fed in zip(runners, inputs, strict=True)]
    timings = side_by_side(calls, seconds=seconds, turns=20)
    rows = [row(network, *one, timing) for one, timing in zip(found, timings, strict=True)]
    for one in rows:
        twin = next(r for r in rows if r["from"] == "timm" and r["precision"] == one["precision"])
        one["times_timm"] = round(one["median_ms"] / twin["median_ms"], 3)
    return rows


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=RESULTS / "keras.json")
    given = parser.parse_args()
    state, rows = dict(machine_state()), []
    with tempfile.TemporaryDirectory() as folder:
        images = noise(Path(folder) / "images")
        for network in given.networks:
            rows += measured(network, Path(folder), images, given.seconds)
    result = {
        "what": "latency of one image in ms on ONNX Runtime, in turns in one process; medians and their ratios",
        "command": f"python benchmarks/from_keras.py --seconds {given.seconds:g} --networks {' '.join(given.networks)}",
        "processor": processor(), "cores": cores(), "machine_before": state, "versions": versions(), "rows": rows,
    }  # fmt: skip
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for one in rows:
        print(f"{one['network']:15} {one['from']:6} {one['precision']:5} {one['median_ms']:8.2f} ms "
              f"{one['times_timm']:6.3f} x  {one['nodes']:4} nodes")  # fmt: skip


if __name__ == "__main__":
    main()
