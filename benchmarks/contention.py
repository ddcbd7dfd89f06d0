"""Speed of training, pruning, quantizing and measuring while other programs use the cores, beside timm and fastai.

    python benchmarks/contention.py [--images FOLDER] [--neighbours 0,1,3] [--rounds 5] [--only NAME,…]
    python benchmarks/contention.py --settings          how OpenMP's threads should wait: which number is best

A neighbour is a process that computes without end, in a login session of its own, as another user's would be: Linux
gives each session an equal part of the cores (autogroup). Every contestant is a process in a session of its own as
well. It is made ready once, and then waits. In each round every contestant does its job once for each number of
neighbours, in random order, alone but for these neighbours, so that what else the machine does hits all alike.
Figures are medians over the rounds; ratios are those of one round, and then their median.

"OpenMP's default" is tlopt with the number of spins that libgomp has without tlopt. timm and fastai run as they come:
torch is imported before anything of tlopt, and the weights are random. fastai takes part where --python has it.

The fair share of c cores beside n neighbours is c - n * min(1, c / (n + 1)): nobody gets more than an equal part, and
what a neighbour of one thread cannot use is left to the others.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing10"
BATCH, LR = 32, 1e-3
DEFAULT = "300000"  # spins of libgomp, if nobody says otherwise (GCC's manual of libgomp, GOMP_SPINCOUNT)
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "KMP_BLOCKTIME")
SPINS = ("0", "100", "1000", "3000", "10000", "30000", DEFAULT)
SETTINGS: dict[str, dict[str, str]] = (
    {"tlopt's": {}}
    | {f"{spins} spins": {"GOMP_SPINCOUNT": spins} for spins in SPINS}
    | {"passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
)

Unit = Callable[[], object]


def finetune(work: Path, size: int) -> Unit:
    import tlopt

    how: dict[str, Any] = {"model": "pip:efficientnet_lite0", "method": "full", "epochs": 1, "image_size": size}
    return lambda: tlopt.finetune(work / "images", work / f"{os.getpid()}", cache_dir=work / "cache", force=True, **how)


def steps(_: Path, size: int) -> Unit:
    """Run some steps of training and nothing else, short enough for many rounds."""
    from tlopt.networks import vision_ops  # tlopt before torch

    vision_ops.declare()
    import timm
    import torch

    network = timm.create_model("tf_efficientnet_lite0").to(memory_format=torch.channels_last).train()
    inputs = torch.randn(BATCH // 2, 3, size, size).contiguous(memory_format=torch.channels_last)

    from tlopt.process.waiting import sharing

    stack.enter_context(sharing())

    def some() -> None:
        for _ in range(2):
            network(inputs).square().mean().backward()

    return some


def prune(work: Path, _: int) -> Unit:
    import tlopt

    how: dict[str, Any] = {"epochs": 0, "samples": 32, "cache_dir": work / "cache", "force": True}
    return lambda: tlopt.prune(work / "tuned", work / f"{os.getpid()}", **how)


def quantize(work: Path, _: int) -> Unit:
    import tlopt

    return lambda: tlopt.quantize(work / "fp32", work / f"{os.getpid()}", samples=32, force=True)


stack = ExitStack()  # what is entered lasts as long as the process


def bench(kind: str, backend: str) -> Callable[[Path, int], Unit]:
    def made(work: Path, _: int) -> Unit:
        import numpy as np

        from tlopt.artifact import Artifact
        from tlopt.backends import open_runner
        from tlopt.process.waiting import sharing

        artifact = Artifact.load(work / kind)
        runner = open_runner(artifact, backend)
        stack.enter_context(sharing())
        inputs = np.random.default_rng(0).standard_normal((8, *artifact.card.preprocess.input_shape), dtype=np.float32)
        return lambda: [runner(inputs) for _ in range(20)]

    return made


def imported_vision() -> None:
    """Import torch, which reads how to wait, and only then let torchvision be imported beside one without CUDA."""
    import torch  # noqa: F401

    from tlopt.networks import vision_ops

    vision_ops.declare()


def timm(work: Path, size: int) -> Unit:
    """Train an epoch as timm's train.py does, with its loader and transforms."""
    imported_vision()
    import timm
    import torch
    from timm.data import create_dataset, create_loader

    network = timm.create_model("tf_efficientnet_lite0", num_classes=len(list((work / "images").iterdir())))
    loader = create_loader(
        create_dataset("", root=str(work / "images")), input_size=(3, size, size), batch_size=BATCH, is_training=True,
        use_prefetcher=False, num_workers=len(os.sched_getaffinity(0)), device=torch.device("cpu"), pin_memory=False,
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9)
    loss = torch.nn.CrossEntropyLoss()
    network.train()

    def epoch() -> None:
        for inputs, labels in loader:
            loss(network(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def fastai(work: Path, size: int) -> Unit:
    """Train an unfrozen epoch with fastai's Learner."""
    imported_vision()
    import timm
    import torch
    from fastai.vision.all import ImageDataLoaders, Learner, RandomResizedCrop

    loaders = ImageDataLoaders.from_folder(
        work / "images", valid_pct=0.05, seed=0, bs=BATCH, item_tfms=RandomResizedCrop(size, min_scale=0.5),
        num_workers=len(os.sched_getaffinity(0)), device="cpu",
    )  # fmt: skip
    network = timm.create_model("tf_efficientnet_lite0", num_classes=len(list((work / "images").iterdir())))
    learner = Learner(loaders, network, loss_func=torch.nn.CrossEntropyLoss())

    def epoch() -> None:
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(1, LR)

    return epoch


JOBS: dict[str, Callable[[Path, int], Unit]] = {
    "finetune": finetune, "steps": steps, "prune": prune, "quantize": quantize, "bench torch": bench("tuned", "torch"),
    "bench onnxruntime": bench("fp32", "onnxruntime"), "timm": timm, "fastai": fastai,
}  # fmt: skip
OWN = [name for name in JOBS if name not in ("steps", "timm", "fastai")]


class Contestant:
    """A process that does its job once each time it is told to."""

    def __init__(self, python: str, job: str, work: Path, size: int, environment: dict[str, str]) -> None:
        own = {name: value for name, value in os.environ.items() if name not in VARIABLES} | environment
        command = [python, __file__, "--job", job, "--work", str(work), "--size", str(size)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=own,
            start_new_session=True,
        )  # fmt: skip

    def wait(self) -> dict[str, Any]:
        """Return its next answer."""
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            code = self.child.wait()
            self.errors.seek(0)
            raise RuntimeError(f"ended with code {code}: {self.errors.read().strip().rpartition(chr(10))[2]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def seconds(self) -> float:
        """Let it do its job, and return how long that took."""
        assert self.child.stdin is not None
        self.child.stdin.write("go\n")
        self.child.stdin.flush()
        return float(self.wait()["seconds"])

    def close(self) -> None:
        """End it."""
        self.child.kill()
        self.child.wait()


def serve(job: str, work: Path, size: int) -> None:
    """Do a job each time a line comes, and answer with the seconds that it took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    unit = JOBS[job](work, size)
    unit()  # whatever is found, decoded or compiled only once
    print(json.dumps({name: os.environ.get(name) for name in VARIABLES}), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        unit()
        print(json.dumps({"seconds": time.perf_counter() - began}), file=answers, flush=True)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Run some processes of other sessions that compute without end."""
    # It ends with the benchmark, however that ends: a neighbour without anybody to measure it takes a core for ever.
    loop = [sys.executable, "-c", f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(10000))"]
    started = [subprocess.Popen(loop, start_new_session=True) for _ in range(count)]
    time.sleep(0.5 if started else 0)
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


def fair_share(cores: int, count: int) -> float:
    """Return the share of all cores that is fair beside some neighbours of one thread each."""
    return (cores - count * min(1.0, cores / (count + 1))) / cores


def prepared(images: Path, number: int, size: int, work: Path) -> None:
    """Make what the jobs read."""
    import tlopt

    part = tlopt.scan(images)
    for label, name in enumerate(part.classes):
        (work / "images" / name).mkdir(parents=True)
        members = [file for file, own in zip(part.files, part.labels, strict=True) if own == label]
        for i, file in enumerate(members[: number // len(part.classes)]):
            (work / "images" / name / f"{i:04}{Path(file).suffix}").symlink_to((part.path / file).resolve())
    how: dict[str, Any] = {"model": "pip:efficientnet_lite0", "method": "head", "image_size": size}
    tlopt.finetune(work / "images", work / "tuned", cache_dir=work / "cache", **how)
    tlopt.export(work / "tuned", work / "fp32")


def contestants(options: argparse.Namespace) -> dict[str, tuple[str, dict[str, str]]]:
    """Return name -> job and environment."""
    found: dict[str, tuple[str, dict[str, str]]]
    if options.settings:
        found = {f"steps at {name}": ("steps", setting) for name, setting in SETTINGS.items()}
        return {name: how for name, how in found.items() if not options.only or name in options.only}
    spin = {"GOMP_SPINCOUNT": DEFAULT}
    found = {}
    for job in OWN:
        found[f"tlopt {job}"] = job, {}
        found[f"tlopt {job} (OpenMP's default)"] = job, spin
    found |= {"timm": ("timm", {}), "fastai": ("fastai", {})}
    return {name: how for name, how in found.items() if not options.only or name in options.only}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SHARED)
    parser.add_argument("--number", type=int, default=96, help="images used")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--neighbours", default="0,1,3")
    parser.add_argument("--rounds", type=int, default=5, help="30 or more with --settings")
    parser.add_argument("--settings", action="store_true", help="compare ways in which OpenMP's threads wait")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="contestants, by name")
    parser.add_argument("--python", default=sys.executable, help="interpreter that may have fastai")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        serve(options.job, options.work, options.size)
        return
    result = compete(options)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / ("contention-settings" if options.settings else "contention")
    file.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


def compete(options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds."""
    from tlopt.environment import cores, processor, versions
    from tlopt.measure.speed.machine import machine_state

    counts = [int(text) for text in options.neighbours.split(",")]
    wanted, shuffled = contestants(options), random.Random(0)
    seconds: dict[str, dict[int, list[float]]] = {name: {count: [] for count in counts} for name in wanted}
    skipped, how = {}, {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        work = Path(folder)
        if not options.settings:
            prepared(options.images, options.number, options.size, work)
        running = {}
        for name, (job, environment) in wanted.items():
            python = options.python if job == "fastai" else sys.executable
            one = Contestant(python, job, work, options.size, environment)
            stack.callback(one.close)
            try:
                how[name] = {key: value for key, value in one.wait().items() if value is not None}
                running[name] = one
            except RuntimeError as error:
                skipped[name] = str(error)
        if not running:
            raise SystemExit(f"No contestant can run: {skipped}")
        before = dict(machine_state())
        for turn in range(options.rounds):
            for count in shuffled.sample(counts, len(counts)):
                with neighbours(count):
                    for name in shuffled.sample(sorted(running), len(running)):
                        seconds[name][count].append(running[name].seconds())
            print(f"round {turn + 1}", {n: {c: round(v[-1], 2) for c, v in s.items() if v} for n, s in seconds.items()},
                  file=sys.stderr, flush=True)  # fmt: skip
    autogroup = Path("/proc/sys/kernel/sched_autogroup_enabled")
    return {
        "what": "seconds of a job beside programs of other sessions that use a core each; medians over rounds",
        "command": "python benchmarks/contention.py " + " ".join(_given(options)),
        "device": processor(), "cores": cores(), "versions": versions(), "size": options.size, "images": options.number,
        "rounds": options.rounds, "autogroup": autogroup.read_text().strip() if autogroup.exists() else "none",
        "machine_before": before, "environment": how,
        "rows": [row for name in running for row in rows(name, seconds, cores())],
        "runs": seconds, "skipped": skipped,
    }  # fmt: skip


def _given(options: argparse.Namespace) -> list[str]:
    parts = [f"--images {os.path.relpath(options.images)}", f"--neighbours {options.neighbours}"]
    parts += [f"--rounds {options.rounds}"] + ["--settings"] * options.settings
    return parts + [f"--only {shlex.quote(','.join(options.only))}"] * bool(options.only)


def rows(name: str, seconds: dict[str, dict[int, list[float]]], cores: int) -> Iterator[dict[str, Any]]:
    """Yield a contestant's figures for each number of neighbours."""
    base = next((other for other in (f"{name} (OpenMP's default)", f"steps at {DEFAULT} spins")
                 if seconds.get(other)), "")  # fmt: skip
    for count, taken in seconds[name].items():
        row: dict[str, Any] = {"contestant": name, "neighbours": count, "seconds": round(statistics.median(taken), 3)}
        alone = seconds[name].get(0)
        if alone:
            speed = statistics.median(one / own for one, own in zip(alone, taken, strict=True))
            row["speed_against_alone"] = round(speed, 3)
            row["of_the_fair_share"] = round(speed / fair_share(cores, count), 3)
        if base and seconds[base][count]:
            pairs = zip(seconds[base][count], taken, strict=True)
            row["speed_against_the_default"] = round(statistics.median(one / own for one, own in pairs), 3)
        yield row


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a table."""

    def shown(row: dict[str, Any], key: str) -> str:
        return f"{row[key]:.2f}" if key in row else ""

    lines = [
        "# Speed while other programs use the cores", "", f"{result['what']}.", "",
        f"{result['device']}, {result['cores']} cores; torch {result['versions']['torch']}, timm "
        f"{result['versions']['timm']}; EfficientNet-Lite0 at {result['size']} px, {result['images']} images, "
        f"{result['rounds']} rounds. `{result['command']}`", "",
        "| contestant | neighbours | seconds | speed against alone | of the fair share | against OpenMP's default |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {row['contestant']} | {row['neighbours']} | {row['seconds']:.2f} | "
            f"{shown(row, 'speed_against_alone')} | {shown(row, 'of_the_fair_share')} | "
            f"{shown(row, 'speed_against_the_default')} |"
            for row in result["rows"]
        ),
        "", *(f"Not run: {name}: {reason}." for name, reason in result["skipped"].items()),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
