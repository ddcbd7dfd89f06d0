"""Write benchmarks/README.md: every claim with the peer, the ratio, the interval, the device and the command.

    python benchmarks/page.py

All figures are read from the files in benchmarks/results, so a row changes when its benchmark was run again.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlopt.measure.statistics import wilson

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE / "README.md"
NETWORKS = {
    "mobilenetv2": "MobileNetV2",
    "mobilenetv2_100": "MobileNetV2",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "lite0": "EfficientNet-Lite0",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "tf_efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_b0": "EfficientNet-B0",
    "efficientnet_b2": "EfficientNet-B2",
    "mobilenetv3_large": "MobileNetV3-Large",
    "convnext_atto": "ConvNeXt-Atto",
    "regnety_002": "RegNetY-002",
    "repvgg_a0": "RepVGG-A0",
    "densenet121": "DenseNet-121",
    "inception_v3": "Inception v3",
    "resnet50d": "ResNet-50-D",
    "resnetv2_50": "ResNetV2-50",
    "resnext50_32x4d": "ResNeXt-50",
    "fastvit_t8": "FastViT-T8",
    "mobilenetv3_large_100": "MobileNetV3-Large",
    "mobilenetv3_small_100": "MobileNetV3-Small",
    "lcnet_100": "LCNet",
    "mnasnet_100": "MNASNet",
    "mobileone_s0": "MobileOne-S0",
    "repghostnet_050": "RepGhost-0.5",
    "repvit_m0_9": "RepViT-M0.9",
}
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}  # fmt: skip
# Of files that several runs filled, the commands together.
COMMANDS = {
    "optimize": "optimize.py --sets clothing10-40,elpv-400 --budgets 2.2,1.2 --seeds 0,1,2 --networks lite0,mobilenetv2"
    " --image-sizes 96,128,160,192 --widths 1,0.7,0.5 --epochs 3 --share 0.25 --again 2 --time-anew",
    "optimize-zen4": "optimize.py --sets clothing10-40,elpv-400 --budgets 2.2,1.2 --seeds 0,1,2"
    " --networks lite0,mobilenetv2 --image-sizes 96,128,160,192 --widths 1,0.7,0.5 --epochs 3 --share 0.25 --again 2"
    " --time-anew",
    "prune-cpu": "prune.py --models MODEL --seeds 0,1,2 --epochs EPOCHS (ResNets 4, others 8; ResNet-50: seed 0)",
    "prune-cpu-avx2": "prune.py --models resnet50 --seeds 0 --epochs 8; "
    "--models mobilenetv2 --seeds 0,1,2 --epochs 12 --lr 5e-4",
    "finetune-accuracy": "accuracy.py --arms methods,peers",
}


DEVICES = {"Intel(R) Xeon(R) Processor": "Xeon", "AMD EPYC": "EPYC"}  # results of a newer EPYC end in zen4


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A row of the table.

    Args:
        what: The question, and what it is asked of.
        ours: Figure of tlopt.
        peer: Best figure of another tool, and its name; empty if none was measured.
        ratio: The one to the other.
        interval: Of the figure or the ratio, and which.
        file: Name of the result.
        result: Its content.
    """

    what: str
    ours: str
    peer: str = ""
    ratio: str = ""
    interval: str = ""
    file: str
    result: dict[str, Any]

    def row(self) -> str:
        """Return it as a row of Markdown."""
        device = self.result.get("processor") or self.result["device"]
        short = DEVICES.get(device, device)
        if short == "EPYC" and self.file.endswith("zen4"):
            short = "Zen 4"
        file = f"[{self.file}](results/{self.file}.json)"
        command = f"`{COMMANDS.get(self.file, self.result['command']).removeprefix('python benchmarks/')}`"
        cells = (self.what, self.ours, self.peer, self.ratio, self.interval, short, file, command)
        return f"| {' | '.join(cells)} |"


def read(name: str) -> dict[str, Any]:
    """Return a result."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def quantized() -> Iterator[Claim]:
    """Yield the labels that int8 changes, and how fast it is, for each network."""
    for file in sorted(RESULTS.glob("quantize-*.json")):
        result = read(file.stem)
        if "rows" not in result or "judged" not in result:
            continue
        ran = [row for row in result["rows"] if row["runtime"] != "exact"]
        mine = [row for row in ran if row["name"] in ("tlopt --for onnxruntime", "tlopt --for openvino")]
        peers = [row for row in ran if row["name"].startswith(("ORT", "NNCF"))]
        if not mine or not peers:
            continue
        best, peer = (min(rows, key=lambda row: row["flips"]) for rows in (mine, peers))
        low, high = wilson(round(best["flips"] * result["judged"]), result["judged"])
        weights = "fine-tuned" if "-clothing10" in file.stem else "ImageNet weights"
        network = f"{NETWORKS[result['model'].partition('-')[0]]}, {weights}"
        yield Claim(
            what=f"labels that int8 changes: {network}", ours=f"{100 * best['flips']:.1f} %",
            peer=f"{100 * peer['flips']:.1f} % ({_tool(peer['name'])})", ratio=_over(best["flips"], peer["flips"]),
            interval=f"{100 * low:.1f} to {100 * high:.1f} % of {result['judged']:,} images", file=file.stem,
            result=result,
        )  # fmt: skip
        for batch in ("1", "32"):
            yield _latency(network, batch, mine, peers, file.stem, result)


def _latency(
    network: str, batch: str, mine: Sequence[dict[str, Any]], peers: Sequence[dict[str, Any]], file: str,
    result: dict[str, Any],
) -> Claim:  # fmt: skip
    # Weights of the whole range are fast and wrong on processors whose sums saturate.
    peers = [row for row in peers if "whole range" not in row["name"]]
    best, peer = (min(rows, key=lambda row: row["latency_ms"][batch]) for rows in (mine, peers))
    ours, theirs = best["latency_ms"][batch], peer["latency_ms"][batch]
    ratio, interval = f"{ours / theirs:.2f}", ""
    for final in result.get("finals", {}).get(batch, [])[:1]:
        ratio, interval = f"{final['share']:.2f}", "{:.2f} to {:.2f}, side by side".format(*final["share_95"])
    return Claim(
        what=f"ms in int8, batch {batch}: {network}", ours=f"{ours:.3g}", peer=f"{theirs:.3g} ({_tool(peer['name'])})",
        ratio=ratio, interval=interval, file=file, result=result,
    )  # fmt: skip


def hard() -> Iterator[Claim]:
    """Yield the same for networks that are hard to quantize, for each runtime; times are side by side alone."""
    files = [file for file in ("hard-int8-zen4", "hard-int8") if (RESULTS / f"{file}.json").exists()]
    told: set[str] = set()
    for file in files:  # the newest first
        result = read(file)
        for name in (name for name in result["networks"] if name not in told):
            yield from _hard(name, file, result)
        told |= result["networks"].keys()


def _hard(name: str, file: str, result: dict[str, Any]) -> Iterator[Claim]:
    network = result["networks"][name]
    for found in network["summaries"]:
        what = f"{NETWORKS[name]}, from random weights, for {RUNTIMES[found['target']]}"
        mine, peer = found["tlopt"], found["peer"]
        yield Claim(
            what=f"labels that int8 changes: {what}", ours=f"{100 * mine['flips']:.1f} %",
            peer=f"{100 * peer['flips']:.1f} % ({_tool(peer['name'])})", ratio=_over(mine["flips"], peer["flips"]),
            interval="{:.1f} to {:.1f} % of {:,} images".format(
                *(100 * bound for bound in mine["flips_95"]), network["judged"]
            ),
            file=file, result=result,
        )  # fmt: skip
        for batch, final in network.get("finals", {}).get(found["target"], {}).items():
            ms = {row["name"]: row["latency_ms"][batch] for row in network["rows"] if _ran(row, found["target"])}
            yield Claim(
                what=f"ms in int8, batch {batch}: {what}", ours=f"{ms[mine['name']]:.3g}",
                peer=f"{ms[final['peer']]:.3g} ({_tool(final['peer'])})", ratio=f"{final['share']:.2f}",
                interval="{:.2f} to {:.2f}, side by side".format(*final["share_95"]), file=file, result=result,
            )  # fmt: skip


def operators() -> Iterator[Claim]:
    """Yield how fast int8 is with operators that runtimes compute slowly in 8 bits, for each network and runtime."""
    if not (RESULTS / "int8-operators-zen4.json").exists():
        return
    result = read("int8-operators-zen4")
    for row in result["rows"]:
        for batch in ("1", "8"):
            found = row[f"batch_{batch}"]["tlopt"]
            yield Claim(
                what=f"time in int8, batch {batch}: {NETWORKS[row['model']]}, {RUNTIMES[row['runtime']]}",
                ours=f"{found['share']:.2f}",
                peer="1 (NNCF)" if row["runtime"] == "openvino" else "1 (ORT `quantize_static`)",
                ratio=f"{found['share']:.2f}", interval="{:.2f} to {:.2f}, side by side".format(*found["share_95"]),
                file="int8-operators-zen4", result=result,
            )  # fmt: skip


def branches() -> Iterator[Claim]:
    """Yield how fast int8 is of networks that were exported with their branches, for each network and runtime."""
    if not (RESULTS / "branches.json").exists():
        return
    result = read("branches")
    for row in result["rows"]:
        for batch in ("1", "8"):
            found, peer = (row[f"batch_{batch}"][name] for name in ("tlopt, int8", "int8 of the other tool"))
            yield Claim(
                what=f"time in int8, batch {batch}, exported with branches (its fp32 is 1): {NETWORKS[row['model']]}, "
                f"{RUNTIMES[row['runtime']]}",
                ours=f"{found['share']:.2f}",
                peer=f"{peer['share']:.2f} ({'NNCF' if row['runtime'] == 'openvino' else 'ORT `quantize_static`'})",
                ratio=f"{found['share'] / peer['share']:.2f}",
                interval="{:.2f} to {:.2f}, side by side".format(*found["share_95"]), file="branches", result=result,
            )  # fmt: skip


def in_fp8() -> Iterator[Claim]:
    """Yield the share of labels that fp8 changes, in simulation, for networks that are hard to quantize."""
    if not (RESULTS / "hard-formats.json").exists():
        return
    result = read("hard-formats")
    for network in dict.fromkeys(row["network"] for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["network"], row["format"]) == (network, "fp8") and "flips" in row]
        mine = next(row for row in rows if row["way"] == "tlopt")
        peer = min((row for row in rows if row["way"].startswith("ORT")), key=lambda row: row["flips"])
        yield Claim(
            what=f"labels that fp8 changes, simulated: {NETWORKS[network]}, from random weights",
            ours=f"{100 * mine['flips']:.1f} %", peer=f"{100 * peer['flips']:.1f} % ({_tool(peer['way'])})",
            ratio=_over(mine["flips"], peer["flips"]),
            interval="{:.1f} to {:.1f} %".format(*(100 * bound for bound in mine["flips_95"])), file="hard-formats",
            result=result,
        )  # fmt: skip


def _ran(row: dict[str, Any], target: str) -> bool:
    """Whether a row was run, and timed, by the runtime that it is for."""
    return bool(row["target"] == row["judge"] == target)


def pruned() -> Iterator[Claim]:
    """Yield what pruning costs, for each network."""
    for file in ("prune-cpu", "prune-cpu-avx2"):
        result = read(file)
        for model in dict.fromkeys(row["model"] for row in result["rows"]):
            by = {
                name: [row for row in result["rows"] if (row["model"], row["pruned_by"]) == (model, name)]
                for name in ("tlopt", "torch-pruning")
            }
            lost = {name: [100 * row["accuracy_lost"] for row in rows] for name, rows in by.items()}
            speed = {name: statistics.mean(row["batch_1_speedup"] for row in rows) for name, rows in by.items()}
            yield Claim(
                what=f"points lost by pruning: {NETWORKS[model]}",
                ours=f"{_zero(statistics.mean(lost['tlopt'])):.1f} at {speed['tlopt']:.2f} x",
                peer=f"{statistics.mean(lost['torch-pruning']):.1f} at {speed['torch-pruning']:.2f} x (Torch-Pruning)",
                interval=_seeds(lost["tlopt"]), file=file, result=result,
            )  # fmt: skip


def pruned_and_int8() -> Iterator[Claim]:
    """Yield what pruning and int8 cost together, for each network, set and runtime: the slowest of the seeds."""
    file = "prune-int8-zen4"
    result = read(file)
    for network, images in dict.fromkeys((run["network"], run["set"]) for run in result["runs"]):
        runs = [run for run in result["runs"] if (run["network"], run["set"]) == (network, images)]
        for runtime, name in RUNTIMES.items():
            rows = [
                row for run in runs for row in run["rows"]
                if (row["network"], row["precision"], row["runtime"]) == ("pruned", "int8", runtime)
            ]  # fmt: skip
            if not rows:
                continue
            lost = [100 * row["lost"] for row in rows]
            slowest = [1 / max(row["share_of_time"][batch]["share"] for row in rows) for batch in ("1", "32")]
            yield Claim(
                what=f"points lost by pruning and int8: {NETWORKS[network]}, {images}, {name}",
                ours=f"{_zero(statistics.mean(lost)):.1f} at {slowest[0]:.1f} and {slowest[1]:.1f} x, batch 1 and 32",
                interval=_seeds(lost), file=file, result=result,
            )  # fmt: skip


def tuned() -> Iterator[Claim]:
    """Yield the accuracy of fine-tuning beside the peers, for each set and network, and the speed."""
    result = read("finetune-accuracy")
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in result["runs"]:
        key = run["key"]
        arms = found.setdefault((key["set"], key["model"]), {})
        arms.setdefault(key["arm"], []).append(100 * run["test_accuracy"])
    for (images, model), arms in sorted(found.items()):
        peers = {name: statistics.mean(arms[name]) for name in ("timm", "fastai") if name in arms}
        if "lp-ft" not in arms or not peers:
            continue
        peer = max(peers, key=lambda name: peers[name])
        ours = statistics.mean(arms["lp-ft"])
        yield Claim(
            what=f"test accuracy in equal time: {images}, {NETWORKS[model]}", ours=f"{ours:.1f} %",
            peer=f"{peers[peer]:.1f} % ({peer})", ratio=f"{ours - peers[peer]:+.1f} points",
            interval=_seeds(arms["lp-ft"]), file="finetune-accuracy", result=result,
        )  # fmt: skip
    for file in ("finetune-speed-clothing10", "finetune-speed-solar-cells"):
        yield _fastest(file, "images trained per second", "tlopt full (batch norms frozen, its default)")


def predicted() -> Iterator[Claim]:
    """Yield the speed from files to answers."""
    result = read("predict")
    rows = {row["contestant"]: row["images_per_s"] for row in result["rows"]}
    for precision in ("int8", "fp32"):
        ours = max(speed for name, speed in rows.items() if name.startswith(f"tlopt {precision}"))
        yield _faster(f"images per second from files, {precision}", ours, rows, "predict", result)


def _fastest(file: str, what: str, contestant: str) -> Claim:
    result = read(file)
    rows = {row["contestant"]: row["images_per_s"] for row in result["rows"]}
    return _faster(f"{what}: {file.removeprefix('finetune-speed-')}", rows[contestant], rows, file, result)


def _faster(what: str, ours: float, rows: dict[str, float], file: str, result: dict[str, Any]) -> Claim:
    peer = max((name for name in rows if not name.startswith("tlopt")), key=lambda name: rows[name])
    return Claim(
        what=what, ours=f"{ours:.1f}", peer=f"{rows[peer]:.1f} ({peer})", ratio=f"{ours / rows[peer]:.1f} times",
        interval=f"median of {result['rounds']} rounds", file=file, result=result,
    )  # fmt: skip


def others() -> Iterator[Claim]:
    """Yield the claims that have one figure each."""
    contention = read("contention")
    shares = {(row["contestant"], row["neighbours"]): row["of_the_fair_share"] for row in contention["rows"]}
    yield Claim(
        what="speed of fine-tuning beside a busy program, share of a fair one",
        ours=f"{shares['tlopt finetune', 1]:.2f}", peer=f"{shares['fastai', 1]:.2f} (fastai)",
        ratio=_over(shares["tlopt finetune", 1], shares["fastai", 1]), file="contention", result=contention,
    )  # fmt: skip
    audit = read("labels")
    runs = audit["sets"][0]["runs"]
    shares_found = [100 * run["audit"]["found"] for run in runs]
    yield Claim(
        what="wrong labels that the audit finds", ours=f"{statistics.mean(shares_found):.0f} %",
        interval=_seeds(shares_found), file="labels", result=audit,
    )  # fmt: skip
    harness = read("harness")
    low, high = harness["overhead_us_95_interval"]
    yield Claim(
        what="µs that timing adds to a call", ours=f"{harness['overhead_us_per_call']:.1f}",
        interval=f"{low:.1f} to {high:.1f}", file="harness", result=harness,
    )  # fmt: skip
    scale = read("scale")
    yield Claim(
        what="s to the first step of training, 100,000 images",
        ours=f"{scale['runs'][0]['scan_to_first_step']['seconds']:.1f}", file="scale", result=scale,
    )  # fmt: skip
    bundle = read("bundle")
    row = bundle["rows"][0]
    times = sorted(row["first_answers_s"])
    yield Claim(
        what="s from start to first answer of a bundle, ONNX Runtime", ours=f"{row['first_answer_s']:.2f}",
        interval=f"{times[0]:.2f} to {times[-1]:.2f} in {len(times)} runs", file="bundle", result=bundle,
    )  # fmt: skip


def served() -> Iterator[Claim]:
    """Yield how many images a server classifies, beside the peer with the same model on the same cores."""
    result = read("serving")
    rows = [row for row in result["load"] if row["input"] == "image" and row.get("loop") == "closed"]
    ours, theirs = (
        max((row for row in rows if row["server"].startswith(name)), key=lambda row: row["per_s"])
        for name in ("tritonserver", "LitServe")
    )
    said = result["conditions"]["load"]
    about = {"processor": said.partition(",")[0], "command": said.partition("`")[2].partition("`")[0]}
    yield Claim(
        what="images/s served from image files, EfficientNet-Lite0 in fp32", ours=f"{ours['per_s']:.0f}",
        peer=f"{theirs['per_s']:.0f} ({theirs['server']})", ratio=_over(ours["per_s"], theirs["per_s"]),
        file="serving", result=about,
    )  # fmt: skip


def searched() -> Iterator[Claim]:
    """Yield the accuracy that a search finds within a budget, beside trying everything, and beside what is usual."""
    found: dict[tuple[str, float, bool], tuple[str, dict[str, Any]]] = {}
    # The newer result of the same images and budget counts. The last one has nothing of what is usual.
    for name in ("optimize", "optimize-zen4", "optimize-decision-zen4"):
        if (RESULTS / f"{name}.json").exists():
            result = read(name)
            has_usual = any(row["way"] == "usual" for row in result["rows"])
            found |= {(row["images"], row["budget_ms"], has_usual): (name, result) for row in result["rows"]}
    for (images, budget, _), (name, result) in found.items():
        rows = [row for row in result["rows"] if (row["images"], row["budget_ms"]) == (images, budget)]
        of = {way: [row for row in rows if row["way"] == way and "test" in row] for way in ("optimize", "usual")}
        every = [row for row in rows if row["way"] == "exhaustive, best on test"]
        if not of["optimize"] or not every:
            continue
        ours = statistics.mean(row["test"] for row in of["optimize"])
        spent = statistics.mean(row["seconds"] for row in of["optimize"])
        peers = {
            f"all {result['candidates']} candidates, {every[0]['seconds']:.0f} s": every,
            "one network as usual, which takes " + _latencies(of["usual"]): of["usual"],
        }
        for peer, its in peers.items():
            if its:
                yield Claim(
                    what=f"% right on {images} within {budget:g} ms, in {spent:.0f} s of search",
                    ours=f"{100 * ours:.1f}", peer=f"{100 * statistics.mean(row['test'] for row in its):.1f} ({peer})",
                    interval=_seeds([100 * row["test"] for row in of["optimize"]]), file=name, result=result,
                )  # fmt: skip


def _latencies(rows: Sequence[dict[str, Any]]) -> str:
    found = sorted({f"{row['latency_ms']:.2f}" for row in rows}, key=float)
    return f"{' to '.join(dict.fromkeys([found[0], found[-1]]))} ms" if found else ""


def _seeds(values: Sequence[float]) -> str:
    if len(values) == 1:
        return "one seed"
    return f"{min(values):.1f} to {max(values):.1f} over {len(values)} seeds"


def _zero(value: float) -> float:
    """Return a figure that is shown with one decimal, without a sign if that is 0."""
    return round(value, 1) + 0.0


def _over(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs else ""


def _tool(name: str) -> str:
    return "NNCF" if name.startswith("NNCF") else "ORT `quantize_static`"


_HEAD = """\
# Benchmarks

Every claim that compares tlopt or gives one figure stands here, with the file and the command of its result.
[docs/results.md](../docs/results.md) explains the conditions of each. `python benchmarks/page.py` writes this page.

- "Xeon" is two cores of an Intel Xeon with AVX512-VNNI. "EPYC" is two cores of an AMD EPYC with AVX2 alone.
  "Zen 4" is one core of an AMD EPYC with AVX512-VNNI.
- A ratio is tlopt's figure divided by the peer's. Where less is better, a ratio below 1 is good.
- An interval belongs to tlopt's figure, or to the ratio if it says "side by side".
  It is the 95 % interval, or the smallest and largest of the runs named.
- An empty cell was not measured.
- Commands start with `python benchmarks/`. Those that name `../shared` need images or weights that are not in the
  repository.

`benchmarks/all.sh` takes the figures again on a new machine, in a night.

| claim | tlopt | best peer | ratio | interval | device | file | command |
|---|---:|---:|---:|---|---|---|---|
"""


def text() -> str:
    """Return the page."""
    claims: Iterable[Claim] = (
        *quantized(), *hard(), *operators(), *branches(), *in_fp8(), *pruned(), *pruned_and_int8(), *tuned(),
        *predicted(), *others(), *served(), *searched(),
    )  # fmt: skip
    return _HEAD + "".join(f"{claim.row()}\n" for claim in claims)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
