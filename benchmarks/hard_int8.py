"""Quantize networks that are known to be hard in int8, with tlopt and with other tools, for three runtimes.

    python benchmarks/hard_int8.py --images ../shared/data/clothing10 --work runs/benchmark-hard

Needs `python -m pip install nncf`. The networks are trained from random weights (`hard_networks.py`), and kept in
--work. All tools calibrate on the same 128 training images. What is counted is how often the label of an image that
training did not see differs from fp32's. The 95 % interval (Wilson) stands beside it, and how far int8 moves the margin
between fp32's first and second class (root mean square, relative to the median margin), which every image tells.

Graphs for ONNX Runtime and OpenVINO are judged as the runtime computes. Those of ONNX Runtime are also judged in exact
arithmetic: in float between the Q/DQ pairs. Graphs for TensorRT are judged in exact arithmetic alone: there is no GPU.
Their peer is ONNX Runtime's tool with the settings that TensorRT asks for. Results are written after each network, and
a run goes on where the last one ended. --again quantizes some networks anew with tlopt; their trained weights and
the other tools' graphs stay. Times are taken after everything is judged, all rows of a network in turn.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hard_networks import EPOCHS, NETWORKS, SIZE, trained
from int8_judge import (
    BATCHES,
    RESULTS,
    RUNTIMES,
    WHOLE,
    Call,
    Made,
    answers,
    difference,
    interval,
    kept,
    latencies,
    linked,
    margin_error,
    ort,
    peers,
    peers_for_tensorrt,
    side_by_side,
)

import tlopt
from tlopt.artifact import Artifact
from tlopt.environment import cores, processor, versions
from tlopt.images import ImageFolder, batches, scan
from tlopt.publishing import write_whole

SAMPLES, TURNS, LAST_TURNS = 128, 3, 11
TARGETS = ("onnxruntime", "openvino", "tensorrt")
JUDGES = {"onnxruntime": ("onnxruntime", "exact"), "openvino": ("openvino",), "tensorrt": ("exact",)}


def main() -> None:
    """Measure the networks and write JSON and Markdown after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images with train, val and test parts")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is trained and made")
    parser.add_argument("--networks", default=",".join(NETWORKS), help=f"some of {', '.join(NETWORKS)}")
    parser.add_argument("--out", type=Path, default=RESULTS / "hard-int8.json")
    parser.add_argument("--again", default="", help="networks whose rows are taken anew")
    given = parser.parse_args()
    names, again = given.networks.split(","), [name for name in given.again.split(",") if name]
    if unknown := [name for name in (*names, *again) if name not in NETWORKS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    file = given.out
    done = json.loads(file.read_text()) if file.exists() else {"networks": {}}
    networks = done["networks"]
    some = f" --networks {given.networks}" if len(names) < len(NETWORKS) else ""
    named = some if file.name == "hard-int8.json" else f"{some} --out benchmarks/results/{file.name}"

    def save() -> None:
        result = {
            "command": f"python benchmarks/hard_int8.py --images {given.images} --work WORK{named}",
            "images": str(given.images), "size": SIZE, "calibrated": SAMPLES,
            "processor": processor(), "threads": cores(), "versions": versions_of_all(),
            "timing": "median over the turns of each turn's median; opened anew each turn, after 3 calls of warm-up",
            "rounds": TURNS, "networks": {known: networks[known] for known in NETWORKS if known in networks},
        }  # fmt: skip
        write_whole(file, json.dumps(result, indent=1) + "\n")
        write_whole(file.with_suffix(".md"), markdown(result))

    for name in names:
        if name not in networks or name in again:
            networks[name] = judged(name, given.images, given.work, again=name in again)
            save()
    for name in names:
        if "finals" not in networks[name]:
            networks[name] |= timed(name, networks[name]["rows"], given.images, given.work)
            save()


def versions_of_all() -> dict[str, str]:
    """Return the versions of tlopt's libraries and of the peers."""
    import nncf

    return {**versions(), "nncf": nncf.__version__}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A trained network, its graphs, and the images that judge them.

    Args:
        network: The torch artifact.
        made: Runtime -> name -> a graph for it.
        unseen: Images that judge them.
    """

    network: Artifact
    made: dict[str, dict[str, Made]]
    unseen: Unseen


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """Images that training did not see, and what the fp32 network makes of them.

    Args:
        inputs: As the network takes them.
        labels: Of these images.
        reference: Logits of the fp32 network.
    """

    inputs: np.ndarray
    labels: np.ndarray
    reference: np.ndarray

    @classmethod
    def of(cls, fp32: Artifact, parts: Mapping[Any, ImageFolder]) -> Unseen:
        """Return the validation and test images of a network."""
        seen = [inputs_of(fp32, parts[part]) for part in ("val", "test")]
        inputs, labels = (np.concatenate(both) for both in zip(*seen, strict=True))
        return cls(inputs=inputs, labels=labels, reference=answers(ort(fp32.payload(".onnx")), inputs))

    def judged(self, logits: np.ndarray) -> dict[str, Any]:
        """Return how far a quantized network's answers are from fp32's, and the accuracy of both."""
        right = {"accuracy": logits, "fp32_accuracy": self.reference}
        return {
            **difference(logits, self.reference), "margin_error": margin_error(logits, self.reference),
            **{key: round(float((found.argmax(1) == self.labels).mean()), 4) for key, found in right.items()},
        }  # fmt: skip


def case(name: str, images: Path, work: Path, *, again: bool = False) -> Case:
    """Train and quantize a network, where that is not done."""
    network, folder = trained(name, images, work), work / name
    fp32 = kept(folder / "fp32") or tlopt.export(network, folder / "fp32")
    parts = scan(images).split(val=0.1, test=0.1, seed=0)
    shuffled = np.random.default_rng(0).permutation(len(parts["train"]))
    chosen = parts["train"].select(np.sort(shuffled[:SAMPLES]))
    calibration = [found.inputs for found in batches(chosen, fp32.card.preprocess, batch=8)]
    own = linked(images, chosen.files, parts["val"].files, folder / "images")
    file = fp32.payload(".onnx")
    made = {runtime: {"fp32": Made(file), **ours(runtime, fp32, own, folder, again=again)} for runtime in TARGETS}
    others = peers(file, calibration, folder)
    made["onnxruntime"] |= {key: Made(path) for key, path in others.items() if path.suffix == ".onnx"}
    made["openvino"] |= {key: Made(path) for key, path in others.items()}
    made["tensorrt"] |= {key: Made(path) for key, path in peers_for_tensorrt(file, calibration, folder).items()}
    return Case(network=network, made=made, unseen=Unseen.of(fp32, parts))


def inputs_of(fp32: Artifact, images: ImageFolder) -> tuple[np.ndarray, np.ndarray]:
    """Return images as the network takes them, and their labels."""
    found = list(batches(images, fp32.card.preprocess, batch=64))
    return np.concatenate([part.inputs for part in found]), np.concatenate([part.labels for part in found])


def ours(runtime: str, fp32: Artifact, images: Path, folder: Path, *, again: bool) -> dict[str, Made]:
    """Quantize with tlopt's defaults for a runtime."""
    out = folder / f"tlopt-{runtime}"
    found = None if again else kept(out)
    found = found or tlopt.quantize(fp32, out, images=images, samples=SAMPLES, for_=runtime, force=True)
    return {f"tlopt --for {runtime}": Made(found.payload(".onnx"), found.card.lineage[-1].seconds)}


def judged(name: str, images: Path, work: Path, *, again: bool) -> dict[str, Any]:
    """Return what is known of a network, with a row for each graph and what runs it."""
    found = case(name, images, work, again=again)
    rows: list[dict[str, Any]] = []
    for target, graphs in found.made.items():
        for key, graph in graphs.items():
            for judge in JUDGES[target]:
                if key == "fp32" and judge == "exact":
                    continue
                logits = answers(RUNTIMES[judge](graph.path), found.unseen.inputs)
                rows.append({
                    "target": target, "name": key, "judge": judge, "seconds": round(graph.seconds, 1),
                    **found.unseen.judged(logits),
                })  # fmt: skip
                print(rows[-1], flush=True)
    return {
        "model": NETWORKS[name].model, "hard": NETWORKS[name].hard, "epochs": EPOCHS,
        "training_s": round(found.network.card.lineage[-1].seconds), "judged": len(found.unseen.inputs),
        "summaries": [summary(target, rows) for target in TARGETS], "rows": rows,
    }  # fmt: skip


def timed(name: str, rows: list[dict[str, Any]], images: Path, work: Path) -> dict[str, Any]:
    """Time the graphs of a network that run here; the rows get their times.

    Returns:
        The fastest of each runtime side by side, and the load of the machine.
    """
    found = case(name, images, work)
    openers: dict[tuple[str, str], Callable[[], Call]] = {
        (key, target): functools.partial(RUNTIMES[target], graph.path)
        for target in ("onnxruntime", "openvino")
        for key, graph in found.made[target].items()
    }
    times = latencies(openers, found.unseen.inputs, TURNS)
    for row in rows:
        if row["judge"] != "exact":
            row["latency_ms"] = {str(size): round(ms, 2) for size, ms in times[row["name"], row["judge"]].items()}
    finals = {target: fastest(target, rows, openers, found.unseen.inputs) for target in ("onnxruntime", "openvino")}
    return {"finals": finals, "load": [round(load, 1) for load in os.getloadavg()]}


def fastest(
    target: str, rows: list[dict[str, Any]], openers: dict[tuple[str, str], Callable[[], Call]], inputs: np.ndarray
) -> dict[str, Any]:
    """Time tlopt's graph for a runtime and the fastest peer's anew, side by side, at each batch."""
    ran = [row for row in rows if row["target"] == target and "latency_ms" in row]
    found = {}
    for size in BATCHES:
        mine = next(row["name"] for row in ran if row["name"] == f"tlopt --for {target}")
        peer = min((row for row in ran if is_peer(row)), key=lambda row: row["latency_ms"][str(size)])["name"]
        sides = {"tlopt": openers[mine, target], "peer": openers[peer, target]}
        batch = np.resize(inputs, (size, *inputs.shape[1:]))
        found[str(size)] = {"peer": peer, **side_by_side(sides, batch, LAST_TURNS)["tlopt"]}
        print(target, size, found[str(size)], flush=True)
    return found


def is_peer(row: dict[str, Any]) -> bool:
    """Whether a row is another tool's, and its integers do not saturate here."""
    return row["name"].startswith(("ORT", "NNCF")) and WHOLE not in row["name"]


def summary(target: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the share of labels that tlopt's graph for a runtime changes, and the best peer's, as the runtime runs."""
    rows = [row for row in rows if (row["target"], row["judge"]) == (target, JUDGES[target][0])]
    mine = next(row for row in rows if row["name"] == f"tlopt --for {target}")
    peer = min(filter(is_peer, rows), key=lambda row: (row["flips"], row["margin_error"]))
    shown = ("name", "flips", "flips_95", "margin_error", "accuracy")
    return {
        "target": target,
        "tlopt": {key: mine[key] for key in shown},
        "peer": {key: peer[key] for key in shown},
        "ratio": round(mine["flips"] / peer["flips"], 2) if peer["flips"] else None,
    }


def markdown(result: dict[str, Any]) -> str:
    """Return a table of all networks, one of each, and the conditions."""
    lines = [
        "# int8 of networks that are hard to quantize", "", f"`{result['command']}`", "",
        f"{result['processor']}, {result['threads']} thread(s); {result['size']} px; {result['calibrated']} images to "
        f"calibrate; " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".", "",
        f"Time: {result['timing']}; {result['rounds']} turns. Side by side: {LAST_TURNS} turns.", "",
        "| network | for | tlopt | best peer | ratio | its name | margin error: tlopt | peer "
        "| time of the fastest peer, batch 1 | batch 32 |",
        "|---|---|--:|--:|--:|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for name, network in result["networks"].items():
        for found in network["summaries"]:
            target, mine, peer = found["target"], found["tlopt"], found["peer"]
            times = [
                "{share:.2f} ({0:.2f} to {1:.2f})".format(*last["share_95"], share=last["share"])
                for last in network.get("finals", {}).get(target, {}).values()
            ] or ["", ""]
            ratio = "" if found["ratio"] is None else f"{found['ratio']:.2f}"
            lines.append(
                f"| {name} | {target} | {100 * mine['flips']:.1f} % {interval(mine)}| {100 * peer['flips']:.1f} % "
                f"{interval(peer)}| {ratio} | {peer['name']} | {100 * mine['margin_error']:.0f} % "
                f"| {100 * peer['margin_error']:.0f} % | {times[0]} | {times[1]} |"
            )
    for name, network in result["networks"].items():
        lines += ["", *_rows(name, network)]
    return "\n".join(lines) + "\n"


def _rows(name: str, network: dict[str, Any]) -> list[str]:
    """Return all rows of a network."""
    load = ", ".join(map(str, network.get("load", [])))
    times = f"The machine's load after the timing, over 1, 5 and 15 minutes: {load}." if load else "Not timed."
    lines = [
        f"## {name}", "",
        f"{network['model']} ({network['hard']}), trained for {network['epochs']} epochs; {network['judged']} images "
        f"judge. {times}", "",
        "| for | quantized by | run by | labels changed | margin error | SQNR dB | accuracy | "
        + " | ".join(f"ms, batch {b}" for b in BATCHES) + " |",
        "|---|---|---|--:|--:|--:|--:|" + "--:|" * len(BATCHES),
    ]  # fmt: skip
    for row in network["rows"]:
        cells = " | ".join(f"{row['latency_ms'][str(b)]:.2f}" if "latency_ms" in row else "" for b in BATCHES)
        lines.append(
            f"| {row['target']} | {row['name']} | {row['judge']} | {100 * row['flips']:.1f} % {interval(row)}"
            f"| {100 * row['margin_error']:.0f} % | {row['sqnr_db']:.1f} | {row['accuracy']:.3f} | {cells} |"
        )
    return lines


if __name__ == "__main__":
    main()
