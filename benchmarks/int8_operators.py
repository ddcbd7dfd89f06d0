"""int8 of networks with operators that runtimes compute slowly in 8 bits.

These are means over windows, batch norms that no convolution can take in, convolutions of narrow groups, hard swish,
and depthwise convolutions whose channels are no multiple of 16.

    python benchmarks/int8_operators.py [--models densenet121,inception_v3] [--turns 7] [--out …]

Each network has random weights, batch norms that make values of the usual size of noise, and ranges from noise. In each
runtime four graphs take turns, each opened anew: float, tlopt's int8, tlopt's with these operators as they are, and a
peer's. The peer is quantize_static in ONNX Runtime, and NNCF in OpenVINO. Needs timm and `python -m pip install nncf`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from int8_judge import RESULTS, RUNTIMES, prepared_for_ort, reader, side_by_side

import tlopt
from tlopt.artifact import Artifact
from tlopt.cards.words import Runtime
from tlopt.environment import cores, processor, versions
from tlopt.publishing import write_whole
from tlopt.search.drafting import cast_graph

MODELS = (
    "densenet121,inception_v3,resnet50d,resnetv2_50,resnext50_32x4d,fastvit_t8,"
    "mobilenetv3_large_100,mobilenetv3_small_100,lcnet_100,mnasnet_100"
)
BATCHES = (1, 8)
NAMES = ("float", "tlopt", "tlopt, operators as they are")


def quantize_static(fp32: Path, images: np.ndarray, folder: Path) -> Path:
    """Quantize with ONNX Runtime's tool, by the ranges met."""
    from onnxruntime import quantization as tool

    made = folder / "peer.onnx"
    tool.quantize_static(
        str(prepared_for_ort(fp32, folder)), str(made), reader(list(np.split(images, len(images)))), per_channel=True,
        activation_type=tool.QuantType.QUInt8, weight_type=tool.QuantType.QInt8,
    )  # fmt: skip
    return made


def nncf_quantize(fp32: Path, images: np.ndarray, folder: Path) -> Path:
    """Quantize with NNCF at its defaults."""
    import nncf
    import openvino

    made = folder / "peer.xml"
    calibration = nncf.Dataset(list(np.split(images, len(images))))
    model = nncf.quantize(openvino.Core().read_model(fp32), calibration, subset_size=len(images))
    openvino.save_model(model, str(made), compress_to_fp16=False)
    return made


PEERS: dict[Runtime, Callable[[Path, np.ndarray, Path], Path]] = {
    "onnxruntime": quantize_static,
    "openvino": nncf_quantize,
}


@contextlib.contextmanager
def operators_as_they_are() -> Iterator[None]:
    """Keep tlopt from changing them, and from leaving narrow groups in float."""
    with (
        mock.patch("tlopt.quantization.float_graph.with_depthwise", lambda view, _: view),
        mock.patch("tlopt.quantization.float_graph.with_padded_channels", lambda view, _: view),
        mock.patch("tlopt.quantization.float_graph.with_hard_sigmoids", lambda view: view),
        mock.patch("tlopt.quantization.int8.hard_sigmoids", return_value={}),
        mock.patch("tlopt.quantization.placement._FEW_PAIRS", 0),
    ):
        yield


def graphs(fp32: Artifact, runtime: Runtime, folder: Path) -> dict[str, Path]:
    """Make a network's four graphs for a runtime."""
    folder.mkdir()
    made = {"float": fp32.payload(".onnx")}
    for name, how in (("tlopt", contextlib.nullcontext()), (NAMES[2], operators_as_they_are())):
        with how:
            made[name] = cast_graph(fp32, folder / name, precision="int8", runtime=runtime).payload(".onnx")
    size = fp32.card.preprocess.size
    noise = np.random.default_rng(0).normal(size=(4, 3, size, size)).astype(np.float32)
    made["peer"] = PEERS[runtime](made["float"], noise, folder)
    return made


def exported(model: str, folder: Path, *, norms: bool = False) -> Artifact:
    """Export a network with random weights to network.onnx, and import that as an ONNX artifact.

    Args:
        model: In timm.
        folder: Where both are made.
        norms: Draw the factors of batch norms, too, and let them normalize noise: layers then read values of the usual
            size. As batch norms are made, an exporter merges those that are alike.
    """
    import torch

    from tlopt.networks import vision_ops

    vision_ops.declare()  # before timm, beside a CPU-only torch
    import timm

    network = timm.create_model(model, num_classes=10).eval()
    size = network.default_cfg["input_size"][-1]
    if norms:
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                module.momentum = 1.0  # the next batch alone counts
        with torch.no_grad():
            network.train()(torch.randn(8, 3, size, size))
        network.eval()
    classes = folder / "classes.txt"
    write_whole(classes, "\n".join(f"class {i}" for i in range(10)))
    torch.onnx.export(
        network, (torch.randn(2, 3, size, size),), folder / "network.onnx", dynamo=True, verbose=False,
        input_names=["images"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("n")},),
    )  # fmt: skip
    return tlopt.import_model(folder / "network.onnx", folder / "fp32", classes=classes)


def measure(model: str, turns: int) -> Iterator[dict[str, Any]]:
    """Yield how long each graph of a network takes in a runtime, as a share of the peer's time."""
    with tempfile.TemporaryDirectory() as place:
        fp32 = exported(model, Path(place), norms=True)
        size = fp32.card.preprocess.size
        for runtime in PEERS:
            made = graphs(fp32, runtime, Path(place) / runtime)
            row: dict[str, Any] = {"model": model, "size": size, "runtime": runtime}
            for batch in BATCHES:
                inputs = np.random.default_rng(1).normal(size=(batch, 3, size, size)).astype(np.float32)
                sides = {name: functools.partial(RUNTIMES[runtime], path) for name, path in made.items()}
                row[f"batch_{batch}"] = side_by_side(sides, inputs, turns)
            yield row


def table(result: dict[str, Any]) -> str:
    """Return the shares as a table."""
    lines = [
        "# int8: operators that runtimes compute slowly in 8 bits", "",
        f"{result['processor']}, {result['threads']} thread(s); `{result['command']}`. "
        "Times as shares of the peer's, which is quantize_static in ONNX Runtime and NNCF in OpenVINO: medians of the "
        "turns and their 95 % intervals.", "",
        f"| network | px | runtime | batch | {' | '.join(NAMES)} |", f"|---|--:|---|--:{'|--:' * len(NAMES)}|",
    ]  # fmt: skip
    for row in result["rows"]:
        for batch in BATCHES:
            cells = shares(row[f"batch_{batch}"], NAMES)
            lines.append(f"| {row['model']} | {row['size']} | {row['runtime']} | {batch} | {cells} |")
    return "\n".join(lines) + "\n"


def shares(found: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return what `side_by_side` found of some graphs as cells of a table."""
    return " | ".join(
        f"{found[name]['share']:.2f} ({found[name]['share_95'][0]:.2f} to {found[name]['share_95'][1]:.2f})"
        for name in names
    )


def take(
    about: str | None, script: str, models: str, out: Path,
    measure: Callable[[str, int], Iterator[dict[str, Any]]], table: Callable[[dict[str, Any]], str],
) -> None:  # fmt: skip
    """Measure the networks that the command line names, and write the result after each row.

    Args:
        about: Help of the command.
        script: Its name.
        models: Networks, if none are named.
        out: File of the result, if none is named.
        measure: Yields the rows of a network, from its name and the number of turns.
        table: Makes the page of a result.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=models)
    parser.add_argument("--turns", type=int, default=7, help="how often each graph is opened, at least 7")
    parser.add_argument("--out", type=Path, default=out)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "command": f"python benchmarks/{script} --models {options.models} --turns {options.turns}",
        "processor": processor(), "threads": cores(), "versions": versions(), "rows": [],
    }  # fmt: skip
    for model in options.models.split(","):
        for row in measure(model, options.turns):
            result["rows"].append(row)
            print(json.dumps(row), flush=True)
            write_whole(options.out, json.dumps(result, indent=1) + "\n")
            write_whole(options.out.with_suffix(".md"), table(result))


if __name__ == "__main__":
    take(__doc__, "int8_operators.py", MODELS, RESULTS / "int8-operators.json", measure, table)
