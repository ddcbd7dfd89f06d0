"""How fast artifacts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tlopt.artifact import Artifact
from tlopt.environment import MOST_THREADS, cores, processor, versions, waiting
from tlopt.errors import SettingError
from tlopt.images.ordered import decoders
from tlopt.measure.candidates import candidates, labels, on_gpu
from tlopt.measure.speed.baseline import read_baseline, regressions, unmatched
from tlopt.measure.speed.callers import Kind
from tlopt.measure.speed.energy import Meter
from tlopt.measure.speed.feeds import Inputs
from tlopt.measure.speed.machine import Watch
from tlopt.measure.speed.nvml import Nvml
from tlopt.measure.speed.rows import counted, measure_memory, not_run, open_lines
from tlopt.progress import bar
from tlopt.reports import Report, Scalar
from tlopt.settings import MOST_IN_BATCH, Setting, flat, formerly
from tlopt.timing import Timed, Timing, in_turns

TURNS = 10  # rounds in which the candidates take turns


_LOADGEN = "It belongs to LoadGen: tlopt loadgen ARTIFACT --scenario single-stream"


@dataclass(frozen=True, kw_only=True)
class Load:
    """How many run an artifact at once."""

    streams: Annotated[
        tuple[int, ...], Setting("Number of callers that run the artifact at once.", minimum=1, maximum=MOST_THREADS)
    ] = (1,)
    callers: Annotated[Kind, Setting("What the callers of --streams are.")] = "threads"
    sessions: Annotated[
        int,
        Setting(
            "Number of times that each artifact is opened. The turns go round these sessions.", minimum=1, maximum=TURNS
        ),
    ] = 1

    def check(self) -> None:
        """Refuse settings that exclude each other.

        Raises:
            SettingError: Several sessions are asked for, and no single caller.
        """
        if self.sessions > 1 and 1 not in self.streams:
            raise SettingError("sessions is for a single caller.", hint="Leave --sessions out, or add 1 to --streams.")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What the results must not be slower than."""

    baseline: Annotated[
        Path | None, Setting("File with earlier results of --json. Slower results than these fail.")
    ] = None
    max_regression: Annotated[
        float, Setting("Largest slow-down against the baseline that is allowed. 0.05 is 5 %.", minimum=0)
    ] = 0.05


@flat
@formerly(scenario=_LOADGEN, target_qps=_LOADGEN, target_latency=_LOADGEN, logs=_LOADGEN)
def bench(
    artifacts: Sequence[str | Path | Artifact],
    *,
    batch: Annotated[
        tuple[int, ...],
        Setting("Images per run. Several numbers are measured one after the other.", minimum=1, maximum=MOST_IN_BATCH),
    ] = (1, 8, 32),
    backend: Annotated[tuple[str, ...], Setting("Backends, or backend:device. Default: the usual ones.")] = (),
    seconds: Annotated[
        float, Setting("Time measured for each artifact, backend and batch, in seconds.", minimum=0.01)
    ] = 5.0,
    threads: Annotated[
        int, Setting("Processor threads. 0 takes one per core. Streams share them.", minimum=0, maximum=MOST_THREADS)
    ] = 0,
    load: Load = Load(),
    images: Annotated[Path | None, Setting("Folder of images to run. Default: the training images.")] = None,
    noise: Annotated[bool, Setting("Run random inputs instead of images.")] = False,
    end_to_end: Annotated[bool, Setting("Also measure the whole way from the file on disk to the answer.")] = False,
    memory: Annotated[
        bool, Setting("Measure the peak memory. Each artifact runs in a process of its own for that.")
    ] = True,
    gate: Gate = Gate(),
    names: Sequence[str] = (),
) -> Report:
    """Measure the latency and throughput of artifacts.

    A run takes one batch from memory and returns its answers to memory. The artifacts take turns in
    short slices, in another order each round. So a disturbance of the machine affects all of
    them. Each is warmed up first, and no run is left out.

    From Python:
        names: What the table calls the artifacts; empty for the names of their folders.

    Raises:
        ArtifactError: An artifact is damaged.
        ImagesError: `images` holds no images, or `end_to_end` finds none.
        MissingLibraryError: The library of a named backend is not installed.
        PluginError: A backend is unknown.
        SettingError: The baseline is no result of a bench, or settings exclude each other.
        StageError: A runtime failed while running, or cannot open an artifact `sessions` times.
    """
    before = read_baseline(gate.baseline)
    loaded = [Artifact.load(artifact) for artifact in artifacts]
    named = dict(zip((artifact.path for artifact in loaded), names or labels(loaded), strict=True))
    inputs = Inputs(images, noise=noise, largest=max(batch))
    tried = [(named[one.artifact.path], one) for one in candidates(loaded, backend)]
    load.check()
    several = load.streams != (1,)
    used = measure_memory([one for _, one in tried], inputs, batch, threads) if memory else {}
    gpu = Nvml.open() if any(on_gpu(one.backend) for _, one in tried) else None
    meter, watch = Meter(gpu=gpu), Watch(gpu=gpu if isinstance(gpu, Nvml) else None)
    rows: list[dict[str, Scalar]] = []
    medians: dict[str, list[float]] = {}
    warm_up: dict[str, int] = {}
    with ExitStack() as stack:
        lines = open_lines(
            stack, tried, inputs, streams=load.streams, callers=load.callers, threads=threads, memory=used,
            sessions=load.sessions,
        )  # fmt: skip
        workers = stack.enter_context(ThreadPoolExecutor(decoders())) if end_to_end else None
        for size in batch:
            whole = [line.from_disk(size, inputs, workers) for line in lines.opened if workers and line.runner]
            timings = iter(_timed([*(line.at(size) for line in lines.opened), *whole], size, seconds, meter, watch))
            new = []
            for line, timing in zip(lines.opened, timings, strict=False):
                new.append({**line.identity(), "batch": size, **({"streams": line.streams} if several else {})})
                new[-1] |= _figures(timing, size) | line.once(size) | _energy(timing, size) | line.gpu_ms(size, inputs)
                medians[_key(new[-1])] = timing.medians_ms.tolist()
                warm_up[_key(new[-1])] = timing.warm_up
            for line, row in zip(lines.opened, new, strict=True):
                row |= _whole_way(next(timings), size) if workers and line.runner else {}
            rows += new
    watch.close()
    rows.sort(key=lambda row: list(named.values()).index(str(row["artifact"])))
    return Report(
        title=_title(len(lines.opened), seconds),
        rows=(*rows, *lines.skipped),
        conditions={
            "processor": processor(),
            "cores": cores(),
            "openmp": waiting(),
            "threads": threads or cores(),
            "batch": list(batch),
            "streams": list(load.streams),
            "sessions": load.sessions,
            "callers": load.callers,
            "seconds": seconds,
            "turns": TURNS,
            "warm_up": "until the medians of two windows of five runs lie within 5 %, 2 s at most",
            "input": inputs.what,
            "runners": lines.conditions,
            "machine": watch.to_dict(),
            "energy_not_read": meter.missing,
            "versions": versions(),
        },
        notes=(*watch.notes(), *_unsteady(rows), *unmatched(medians, before)),
        breaches=tuple(regressions(medians, before, gate.max_regression)),
        not_run=not_run(lines.skipped, named=bool(backend), ran=bool(rows)),
        details={"turn_medians_ms": medians, "warm_up_runs": warm_up},
    )


def _title(candidates: int, seconds: float) -> str:
    together = " side by side" if candidates > 1 else ""
    each = f", {seconds:g} s each" if candidates else ""
    return f"Latency and throughput, {counted(candidates)}{together}{each}"


def _timed(timed: Sequence[Timed], size: int, seconds: float, meter: Meter, watch: Watch) -> list[Timing]:
    if not timed:
        return []
    watch.sweep()
    with bar(f"Timing batch {size}", TURNS * len(timed)) as shown:

        def after_turn() -> None:
            watch.look()
            shown.advance()

        return in_turns(timed, seconds=seconds, turns=TURNS, energy=meter.read, after_turn=after_turn)


def _figures(timing: Timing, size: int) -> dict[str, Scalar]:
    return {
        "p50_ms": timing.quantile_ms(0.5),
        "p90_ms": timing.quantile_ms(0.9),
        "p99_ms": timing.quantile_ms(0.99),
        "mean_ms": timing.mean_ms,
        "stderr_ms": timing.stderr_ms,
        "min_ms": float(timing.runs_ms.min()),
        "images_per_s": size * timing.runs_per_s,
        "runs": len(timing.runs_ms),
    }


def _energy(timing: Timing, size: int) -> dict[str, Scalar]:
    """Return power and energy per image of each part of the machine that can be read."""
    found: dict[str, Scalar] = {}
    for part, joules in timing.spent.joules.items():
        found[f"{part}_w"] = joules / timing.spent.seconds
        found[f"{part}_mj_per_image"] = joules * 1e3 / (timing.spent.runs * size)
    return found


def _whole_way(timing: Timing, size: int) -> dict[str, Scalar]:
    return {"end_to_end_ms": timing.quantile_ms(0.5), "end_to_end_images_per_s": timing.runs_per_s * size}


def _key(row: Mapping[str, Scalar]) -> str:
    at_once = f", {row['streams']} streams" if row.get("streams", 1) != 1 else ""
    return f"{row['artifact']} on {row['backend']}, batch {row['batch']}{at_once}"


def _unsteady(rows: Sequence[Mapping[str, Scalar]]) -> list[str]:
    found = [_key(row) for row in rows if float(row["stderr_ms"] or 0) > 0.05 * float(row["mean_ms"] or 1)]
    few = "; ".join(found) if len(found) <= 3 else f"{len(found)} of {len(rows)} timings"
    return [f"Unsteady, standard error above 5 %: {few}."] if found else []
