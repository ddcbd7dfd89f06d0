"""How much time the harness of `tlopt bench` adds to a call: beside a bare loop around the same session.

    python benchmarks/harness.py [--seconds 20] [--out benchmarks/results/harness.json]

A network of about 1 ms on ONNX Runtime is run in short blocks, in turn by a bare loop (two clock
reads around the whole block, `session.run` inside) and by what the bench does (`timing.turn` around a
`Runner`, two clock reads a call). The overhead is the median over pairs of neighbouring blocks of
the difference per call, with a bootstrap interval.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tlopt.artifact import Artifact, seal
from tlopt.backends.onnxruntime import Runner
from tlopt.cards.card import Card
from tlopt.environment import cores, processor, versions
from tlopt.measure.speed.machine import machine_state
from tlopt.preprocess import Preprocess
from tlopt.publishing import draft, write_whole
from tlopt.timing import quiet, turn, warm

SIZE = 56


def network(layers: int) -> onnx.ModelProto:
    """Return a stack of 3x3 convolutions on 16 channels."""
    random = np.random.default_rng(0)
    nodes, weights, name, channels = [], [], "images", 3
    for i in range(layers):
        weight = (random.standard_normal((16, channels, 3, 3)) * 0.1).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        name, channels = f"r{i}", 16
    nodes += [helper.make_node("GlobalAveragePool", [name], ["p"]), helper.make_node("Flatten", ["p"], ["logits"])]
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 16])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "harness.json")
    arguments = parser.parse_args()
    classes = tuple(f"{i:02}" for i in range(16))
    card = Card(kind="onnx", model="bench:stack", precision="fp32", classes=classes, preprocess=Preprocess(size=SIZE))
    images = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for layers in range(2, 60, 2):
            with draft(Path(folder) / "stack", force=True) as scratch:
                onnx.save(network(layers), scratch / "model.onnx")
                seal(scratch, card)
            runner = Runner(Artifact.load(Path(folder) / "stack"), threads=1)
            if warm(lambda: runner(images))[1] >= 1.0:  # noqa: B023 - called at once
                break
        state = dict(machine_state())
        bare, harness = blocks(runner, images, arguments.seconds)
    difference = harness - bare
    random = np.random.default_rng(2)
    resampled = np.median(random.choice(difference, (2000, len(difference))), axis=1)
    call_ms, overhead_us = float(np.median(bare)), float(np.median(difference)) * 1e3
    result = {
        "command": f"python benchmarks/harness.py --seconds {arguments.seconds:g}",
        "processor": processor(),
        "cores": cores(),
        "threads": 1,
        "machine_before": state,
        "versions": versions(),
        "network": f"{layers} convolutions of 16 channels at {SIZE} px",
        "pairs_of_blocks": len(difference),
        "bare_loop_ms_per_call": round(call_ms, 5),
        "overhead_us_per_call": round(overhead_us, 3),
        "overhead_us_95_interval": [round(float(v) * 1e3, 3) for v in np.quantile(resampled, (0.025, 0.975))],
        "overhead_of_a_1_ms_call": round(overhead_us / 1e3, 6),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def blocks(runner: Runner, images: np.ndarray, seconds: float, runs: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return milliseconds per call of each block: by the bare loop, by the harness."""
    session, feed = runner._session, {"images": images}
    pool = itertools.cycle([images])
    found: dict[str, list[float]] = {"bare": [], "harness": []}

    def bare() -> None:
        session.run(["logits"], feed)  # the run that `turn` does not count either
        started = time.perf_counter()
        for _ in range(runs):
            session.run(["logits"], feed)
        found["bare"].append((time.perf_counter() - started) * 1e3 / runs)

    def harness() -> None:
        # All that the harness does counts here, not only what falls between its own clock reads.
        runner(images)
        started = time.perf_counter()
        measured = turn(lambda: runner(next(pool)), runs)
        elapsed = (time.perf_counter() - started) * 1e3
        # `turn` begins with a run of its own; it is as long as the others.
        found["harness"].append(elapsed / (len(measured) + 1))

    end = time.perf_counter() + seconds
    with quiet():
        for order in itertools.cycle([(bare, harness), (harness, bare)]):
            for block in order:
                block()
            if time.perf_counter() > end:
                break
    return np.array(found["bare"]), np.array(found["harness"])


if __name__ == "__main__":
    main()
