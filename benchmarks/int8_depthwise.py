"""Time of ONNX Runtime's depthwise convolution in 8 bits and in float, by its number of channels.

    python benchmarks/int8_depthwise.py [--channels 72,80,88,96] [--sides 56,14] [--kernels 3,5] [--out …]

Four convolutions follow one another, so that nothing but the first and the last converts a layout. What is told is the
median time that ONNX Runtime's profile gives one of them. Weights and images are random: they change no time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tlopt.environment import cores, processor, versions
from tlopt.publishing import write_whole

RESULTS = Path(__file__).parent / "results"
CHANNELS = "8,12,16,20,24,32,40,48,56,64,72,80,88,96,120,128,136,144"
ROW = 4  # convolutions one after the other
RUNS = 60
SCALE, LEVELS = 0.02, 127


def graph(channels: int, side: int, kernel: int, *, integer: bool) -> onnx.ModelProto:
    """Return depthwise convolutions one after the other."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants = {
        "scale": np.float32(SCALE), "zero": np.uint8(128), "weight_scale": np.full(channels, 0.01, np.float32),
        "weight_zero": np.zeros(channels, np.int8),
    } if integer else {}  # fmt: skip
    how: dict[str, Any] = {"group": channels, "kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
    before = "images"
    if integer:
        nodes.append(helper.make_node("QuantizeLinear", [before, "scale", "zero"], ["quantized"]))
        before = "quantized"
    for at in range(ROW):
        shape, after = (channels, 1, kernel, kernel), f"after{at}"
        if integer:
            constants[f"weight{at}"] = random.integers(-LEVELS, LEVELS, shape).astype(np.int8)
            constants[f"bias{at}"] = np.zeros(channels, np.int32)
            names = ["scale", "zero", f"weight{at}", "weight_scale", "weight_zero", "scale", "zero", f"bias{at}"]
            nodes.append(helper.make_node("QLinearConv", [before, *names], [after], **how))
        else:
            constants[f"weight{at}"] = random.normal(size=shape).astype(np.float32)
            nodes.append(helper.make_node("Conv", [before, f"weight{at}"], [after], **how))
        before = after
    if integer:
        nodes.append(helper.make_node("DequantizeLinear", [before, "scale", "zero"], ["result"]))
    else:
        nodes[-1].output[0] = "result"
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, channels, side, side]) for n in ("images", "result")
    ]
    made = helper.make_graph(
        nodes,
        "depthwise",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def microseconds(model: onnx.ModelProto, channels: int, side: int) -> float:
    """Return the median time of one convolution on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        images = np.random.default_rng(1).normal(size=(1, channels, side, side)).astype(np.float32)
        for _ in range(RUNS):
            session.run(None, {"images": images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return statistics.median(
        float(event["dur"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and "Conv" in event["args"]["op_name"]
    )


def table(result: dict[str, Any]) -> str:
    """Return the times as a table."""
    lines = [
        "# Depthwise convolutions in 8 bits", "",
        f"{result['processor']}, one thread, ONNX Runtime {result['versions']['onnxruntime']}; `{result['command']}`. "
        "Microseconds of one convolution, medians.", "",
        "| kernel | image | channels | float | int8 | int8 / float |", f"{'|--:' * 6}|",
    ]  # fmt: skip
    for row in result["rows"]:
        kernel, side = row["kernel"], row["side"]
        times = f"{row['float_us']:.0f} | {row['int8_us']:.0f} | {row['int8_us'] / row['float_us']:.2f}"
        lines.append(f"| {kernel} x {kernel} | {side} x {side} | {row['channels']} | {times} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Time every number of channels and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", default=CHANNELS)
    parser.add_argument("--sides", default="56,14")
    parser.add_argument("--kernels", default="3,5")
    parser.add_argument("--out", type=Path, default=RESULTS / "int8-depthwise.json")
    given = parser.parse_args()
    rows = [
        {"kernel": kernel, "side": side, "channels": channels} | {
            f"{name}_us": microseconds(graph(channels, side, kernel, integer=name == "int8"), channels, side)
            for name in ("float", "int8")
        }
        for kernel in map(int, given.kernels.split(","))
        for side in map(int, given.sides.split(","))
        for channels in map(int, given.channels.split(","))
    ]  # fmt: skip
    result: dict[str, Any] = {
        "command": f"python benchmarks/int8_depthwise.py --channels {given.channels} --sides {given.sides} "
        f"--kernels {given.kernels}",
        "processor": processor(), "threads": cores(), "versions": versions(), "rows": rows,
    }  # fmt: skip
    write_whole(given.out, json.dumps(result, indent=1) + "\n")
    write_whole(given.out.with_suffix(".md"), table(result))
    print(table(result))


if __name__ == "__main__":
    main()
