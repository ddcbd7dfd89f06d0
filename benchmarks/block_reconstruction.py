"""What block reconstruction would bring to int8, beside plain int8 and QAT without labels, on hard networks.

    python benchmarks/block_reconstruction.py --images ../shared/data/clothing10 --work runs/benchmark-hard

The networks are those of hard_networks.py, trained in --work. Each block of the rounded network learns to give what the
block of the float network gives, from the training images without their labels: BRECQ (arXiv:2102.05426). The input of
a block comes from the rounded blocks before it, and each of its values, by chance, from the float network: QDrop
(arXiv:2203.05740). Blocks end where all that follows reads one tensor, as `tlopt show` names them. Weights are rounded
with the straight-through gradient, and the scales of activations are learned (LSQ): 8 bits leave little to the choice
between rounding up and down that BRECQ learns. All blocks learn in one pass. Judged as in qat_unlabelled.py. Rows
that the result file holds already are not made again. tlopt has no such option: this says why.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from accuracy import processor_seconds
from hard_int8 import JUDGES, Unseen
from hard_networks import trained
from int8_judge import RESULTS, RUNTIMES, answers, changed
from torch import fx, nn
from torch.export import ExportedProgram

import tlopt
from tlopt.backends import reduced_range
from tlopt.environment import cores, processor, versions
from tlopt.graphs.cleaning import clean
from tlopt.graphs.view import View
from tlopt.images import batches, scan
from tlopt.networks import tracing
from tlopt.publishing import write_whole
from tlopt.quantization.int8 import Calibrated, Scheme, calibrate
from tlopt.quantization.qat.network import Steps, with_rounding
from tlopt.quantization.qat.places import Places, places_of
from tlopt.quantization.search.blocks import blocks_of
from tlopt.training.network import of_artifact

FILE = RESULTS / "block-reconstruction.json"
CALIBRATED, BATCH, OPSET = 256, 32, 18


class Border(nn.Module):
    """What passes from one block to the next.

    Attributes:
        seen: Border -> the last values there.
        float_values: The float network's, for a rounded network; None for the float one.
        share: Of the values that come from the float network.
    """

    def __init__(self, share: float = 0.0, float_values: dict[int, torch.Tensor] | None = None) -> None:
        super().__init__()
        self.seen: dict[int, torch.Tensor] = {}
        self.float_values, self.share = float_values, share

    def forward(self, values: torch.Tensor, index: int) -> torch.Tensor:
        """Return what the next block reads."""
        self.seen[index] = values
        if self.float_values is None:
            return values
        taken = torch.rand_like(values) < self.share
        return torch.where(taken, self.float_values[index], values).detach()


class Traced:
    """A traced network, rounded or not, that tells what passes its borders."""

    def __init__(self, program: ExportedProgram, places: Places, borders: list[str], border: Border) -> None:
        self.steps = Steps(places)
        rounded = with_rounding(program, places, self.steps.index)
        rounded.add_module("border", border)
        graph, self.border = rounded.graph, border
        nodes = {node.name: node for node in graph.nodes}
        for index, name in enumerate(borders):
            users = list(nodes[name].users)
            with graph.inserting_after(nodes[name]):
                passed = graph.call_module("border", (nodes[name], index))
            for user in users:
                user.replace_input_with(nodes[name], passed)
        self.graph = fx.GraphModule({"border": border}, graph)
        signature = program.graph_signature
        self.tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        self.constants = {key: program.constants[value] for key, value in lifted.items()}
        self.order = [node.name for node in graph.nodes if node.op == "placeholder"][1:]

    def __call__(self, images: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits for images, with parameters and buffers by name."""
        given = [
            state[self.tensors[key]] if key in self.tensors else self.constants.get(key, images) for key in self.order
        ]
        logits: torch.Tensor = self.graph(self.steps.logarithm, *given)[0]
        return logits


def borders_of(view: View, program: ExportedProgram, places: Places) -> list[str]:
    """Return the tensors that blocks end with and that both networks have by name."""
    found = []
    for block in blocks_of(view)[:-1]:
        inside = set(block.nodes)
        results = [name for node in view.nodes if node.name in inside for name in node.output]
        read = [name for name in results if any(reader.name not in inside for reader in view.readers(name))]
        found += read if len(read) == 1 else []
    there = {node.name for node in with_rounding(program, places, Steps(places).index).graph.nodes}
    return [name for name in found if name in there]


def reconstruct(
    calibrated: Calibrated, program: ExportedProgram, model: nn.Module, images: np.ndarray, given: argparse.Namespace
) -> tuple[dict[str, tuple[float, int]], int]:
    """Train the blocks; the network has its new weights then.

    Returns:
        The trained scales, and the number of blocks.
    """
    places = places_of(calibrated)
    plain = Places(low=places.low, high=places.high, tensors={}, weights={}, names=places.names, gates=places.gates)
    borders = borders_of(calibrated.view, program, places)
    torch.manual_seed(0)
    exact = Traced(program, plain, borders, Border())
    rounded = Traced(program, places, borders, Border(given.drop, exact.border.seen))
    before = {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}
    weights = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    groups = [{"params": list(weights.values()), "lr": given.lr}, {"params": [rounded.steps.logarithm], "lr": 1e-3}]
    optimizer, rng = torch.optim.Adam(groups), np.random.default_rng(0)
    steps = given.epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(given.epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            batch = torch.from_numpy(images[order[start : start + BATCH]])
            batch = batch.flip(-1) if rng.random() < 0.5 else batch
            with torch.no_grad():
                wanted = exact(batch, before)
            found = rounded(batch, {**before, **weights})
            pairs = [(found, wanted), *((rounded.border.seen[i], exact.border.seen[i]) for i in range(len(borders)))]
            loss = sum((one - other).square().mean() / (other.square().mean() + 1e-9) for one, other in pairs)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: {float(loss):.4f}", flush=True)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(weights[name])
    return rounded.steps.scales(), len(borders) + 1


def row(name: str, runtime: str, given: argparse.Namespace) -> dict[str, Any]:
    """Return the row of a network and a runtime."""
    network = of_artifact(trained(name, given.images, given.work))
    parts = scan(given.images).split(val=0.1, test=0.1, seed=0)
    fp32 = tlopt.export(trained(name, given.images, given.work), given.work / name / "blocks-fp32", force=True)
    unseen = Unseen.of(fp32, parts)
    images = np.concatenate([found.inputs for found in batches(parts["train"], network.preprocess, batch=64)])
    started = processor_seconds()
    proto, program = tracing.trace(network.module, network.preprocess.size, OPSET)
    few = images[np.random.default_rng(0).permutation(len(images))[:CALIBRATED]]
    scheme = Scheme(runtime=runtime, reduced=reduced_range(runtime, "auto"))  # type: ignore[arg-type]
    calibrated = calibrate(View(clean(proto)), scheme, np.array_split(few, len(few) // 8))
    scales, blocks = reconstruct(calibrated, program, network.module, images, given)
    proto, _ = tracing.trace(network.module, network.preprocess.size, OPSET)
    learned = Scheme(runtime=scheme.runtime, reduced=scheme.reduced, trained=scales)
    file = given.work / name / f"blocks-{runtime}.onnx"
    onnx.save(calibrate(View(clean(proto)), learned, []).graph(), file)
    seconds = processor_seconds() - started
    logits = answers(RUNTIMES[JUDGES[runtime][0]](file), unseen.inputs)
    return {
        "network": name, "runtime": runtime, "blocks": blocks, "epochs": given.epochs, "lr": given.lr,
        "drop": given.drop, **unseen.judged(logits), "seconds": round(seconds),
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return a row for each run."""
    lines = [
        "# Block reconstruction", "",
        f"{result['processor']}, {result['cores']} thread(s); torch {result['versions']['torch']}. "
        f"`{result['command']}`", "",
        "| network | for | blocks | epochs | lr | from float | labels changed | margin error | accuracy | fp32 | s |",
        f"{'|---' * 11}|",
    ]  # fmt: skip
    for one in result["rows"]:
        lines.append(
            f"| {one['network']} | {one['runtime']} | {one['blocks']} | {one['epochs']} | {one['lr']:g} | "
            f"{one['drop']:g} | {changed(one)} | {one['accuracy']:.3f} | {one['fp32_accuracy']:.3f} | "
            f"{one['seconds']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the rows that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images with train, val and test parts")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--cases", default="mobilenetv3_large:onnxruntime,efficientnet_b0:onnxruntime")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--drop", type=float, default=0.5, help="share of a block's input from the float network")
    given = parser.parse_args()
    result: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"rows": []}
    command = f"python benchmarks/block_reconstruction.py --images {given.images} --work WORK --cases {given.cases}"
    result |= {"command": command, "processor": processor(), "cores": cores(), "versions": versions()}
    for case in given.cases.split(","):
        name, _, runtime = case.partition(":")
        key = {"network": name, "runtime": runtime, "epochs": given.epochs, "lr": given.lr, "drop": given.drop}
        if any(key.items() <= one.items() for one in result["rows"]):
            continue
        result["rows"].append(row(name, runtime, given))
        write_whole(FILE, json.dumps(result, indent=1) + "\n")
        write_whole(FILE.with_suffix(".md"), table(result))
        print(table(result), flush=True)


if __name__ == "__main__":
    main()
