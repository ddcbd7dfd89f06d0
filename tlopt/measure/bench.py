"""How fast artifacts are."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends import Runner
from tlopt.environment import cores, processor, versions
from tlopt.errors import SettingError
from tlopt.measure import measurement
from tlopt.measure.candidates import Candidate, candidates, labels, opened
from tlopt.measure.inputs import Inputs
from tlopt.measure.statistics import mann_whitney
from tlopt.measure.timing import Timing, machine_state, side_by_side
from tlopt.progress import bar
from tlopt.report import Report, Scalar
from tlopt.settings import Setting

TURNS = 10  # rounds in which the candidates take turns
SIGNIFICANT = 0.01  # p-value below which a slow-down is no noise


@dataclass
class _Opened:
    """A candidate ready to run."""

    candidate: Candidate
    runner: Runner
    first_ms: float
    pool: np.ndarray = field(repr=False)

    def call(self, batch: int) -> Callable[[], object]:
        """Return a call that runs the next batch of the pool, round and round."""
        count = max(1, len(self.pool) // batch)
        parts = itertools.cycle([np.ascontiguousarray(self.pool[i * batch : (i + 1) * batch]) for i in range(count)])
        runner = self.runner
        return lambda: runner(next(parts))


@measurement
def bench(
    artifacts: Sequence[str | Path | Artifact],
    *,
    batch: Annotated[tuple[int, ...], Setting("Images per run, one or several.", minimum=1)] = (1, 8, 32),
    backend: Annotated[tuple[str, ...], Setting("Backends, or backend:device; the usual ones if empty.")] = (),
    seconds: Annotated[float, Setting("Measured time per artifact, backend and batch.", minimum=0.01)] = 5.0,
    threads: Annotated[int, Setting("Processor threads in one run; 0 for one per core.", minimum=0)] = 0,
    images: Annotated[Path | None, Setting("Folder of photos to run; those of the training if not given.")] = None,
    noise: Annotated[bool, Setting("Run noise instead of photos.")] = False,
    baseline: Annotated[Path | None, Setting("Earlier results (--json) to hold these against.")] = None,
    max_regression: Annotated[float, Setting("Slow-down against the baseline that is allowed.", minimum=0)] = 0.05,
) -> Report:
    """Measure latency and throughput of artifacts side by side.

    A run is one call from the input in host memory to the logits in host memory. The candidates
    take turns in short slices, in another order each round, so that whatever disturbs the machine
    disturbs all of them; each is warmed up until its duration no longer falls; no run is left out.

    Raises:
        ArtifactError: An artifact is damaged.
        ImagesError: `images` holds no photos.
        PluginError: A backend is unknown.
        SettingError: The baseline is no result of a bench.
    """
    before = _read_baseline(baseline)
    loaded = [Artifact.load(artifact) for artifact in artifacts]
    names = dict(zip((artifact.path for artifact in loaded), labels(loaded), strict=True))
    inputs = Inputs(images, noise=noise, largest=max(batch))
    rows: list[dict[str, Scalar]] = []
    conditions: dict[str, Any] = {}
    medians: dict[str, list[float]] = {}
    skipped: list[dict[str, Scalar]] = []
    started = machine_state()
    with ExitStack() as stack:
        ready: list[_Opened] = []
        for candidate in candidates(loaded, backend):
            label = names[candidate.artifact.path]
            clock = time.perf_counter()
            runner = stack.enter_context(opened(candidate, threads=threads))
            if isinstance(runner, str):
                skipped.append({**_identity(label, candidate, candidate.backend), "skipped": runner})
                continue
            opening = time.perf_counter() - clock
            pool = inputs.of(candidate.artifact)
            clock = time.perf_counter()
            runner(np.ascontiguousarray(pool[:1]))
            first_ms = (opening + time.perf_counter() - clock) * 1e3
            ready.append(_Opened(candidate, runner, first_ms, pool))
            conditions[runner.name] = dict(runner.conditions)
        for size in batch:
            for one, timing in zip(ready, _timed(ready, size, seconds), strict=True):
                rows.append(
                    {
                        **_identity(names[one.candidate.artifact.path], one.candidate, one.runner.name),
                        **_figures(one, timing, size),
                    }
                )
                medians[_key(rows[-1])] = timing.medians_ms.tolist()
    rows.sort(key=lambda row: list(names.values()).index(str(row["artifact"])))
    finished = machine_state()
    breaches = _regressions(medians, before, max_regression)
    return Report(
        title=f"Latency and throughput, {len(ready)} candidates side by side, {seconds:g} s each",
        rows=(*rows, *skipped),
        conditions={
            "processor": processor(),
            "cores": cores(),
            "threads": threads or cores(),
            "batch": list(batch),
            "seconds": seconds,
            "turns": TURNS,
            "warm_up": "until the medians of two windows of five runs lie within 5 %, 2 s at most",
            "input": inputs.what,
            "runners": conditions,
            "machine": {"before": started, "after": finished},
            "versions": versions(),
        },
        notes=tuple(_notes(rows, started, finished)),
        breaches=tuple(breaches),
        details={"turn_medians_ms": medians},
    )


def _identity(label: str, candidate: Candidate, backend: str) -> dict[str, Scalar]:
    return {"artifact": label, "precision": candidate.artifact.card.precision, "backend": backend}


def _timed(ready: Sequence[_Opened], size: int, seconds: float) -> list[Timing]:
    if not ready:
        return []
    with bar(f"Timing batch {size}", TURNS * len(ready)) as shown:
        return side_by_side(
            [one.call(size) for one in ready], seconds=seconds, turns=TURNS, after_turn=lambda: shown.advance()
        )


def _figures(one: _Opened, timing: Timing, size: int) -> dict[str, Scalar]:
    return {
        "batch": size,
        "p50_ms": timing.quantile_ms(0.5),
        "p90_ms": timing.quantile_ms(0.9),
        "p99_ms": timing.quantile_ms(0.99),
        "mean_ms": timing.mean_ms,
        "stderr_ms": timing.stderr_ms,
        "min_ms": float(timing.runs_ms.min()),
        "images_per_s": size * 1e3 / timing.mean_ms,
        "runs": len(timing.runs_ms),
        "warm_up_runs": timing.warm_up,
        "open_and_first_ms": one.first_ms,
    }


def _key(row: Mapping[str, Scalar]) -> str:
    return f"{row['artifact']} on {row['backend']}, batch {row['batch']}"


def _notes(
    rows: Sequence[Mapping[str, Scalar]], started: Mapping[str, float | None], finished: Mapping[str, float | None]
) -> list[str]:
    notes = []
    before, after = started["clock_mhz"], finished["clock_mhz"]
    if before and after and abs(after - before) > 0.1 * before:
        notes.append(f"The processor's clock moved from {before:.0f} to {after:.0f} MHz while measuring.")
    stolen = (finished["stolen_s"] or 0) - (started["stolen_s"] or 0)
    if stolen > 1:
        notes.append(f"The hypervisor took {stolen:.1f} s from this machine while measuring.")
    if (started["load_1min"] or 0) > 0.5 * cores():
        notes.append(f"The machine was busy before: load {started['load_1min']:.1f} on {cores()} cores.")
    unsteady = [_key(row) for row in rows if float(row["stderr_ms"] or 0) > 0.05 * float(row["mean_ms"] or 1)]
    if unsteady:
        few = "; ".join(unsteady) if len(unsteady) <= 3 else f"{len(unsteady)} of {len(rows)} timings"
        notes.append(f"Unsteady, standard error above 5 %: {few}.")
    return notes


def _read_baseline(path: Path | None) -> Mapping[str, list[float]]:
    """Return the turn medians of earlier results."""
    if path is None:
        return {}
    try:
        return dict(Report.from_json(path.read_text(encoding="utf-8")).details["turn_medians_ms"])
    except (OSError, ValueError, KeyError) as error:
        raise SettingError(
            f"{path} cannot be used as a baseline: {error}.", hint="Make one with tlopt bench --json > FILE."
        ) from error


def _regressions(now: Mapping[str, list[float]], before: Mapping[str, list[float]], allowed: float) -> list[str]:
    """Return what is slower than the baseline by more than is allowed, beyond noise.

    The earlier medians, one per turn, are lengthened by what is allowed; the Mann-Whitney test
    asks whether those of now still tend to be larger.
    """
    found = []
    for key in now.keys() & before.keys():
        old, new = np.asarray(before[key]), np.asarray(now[key])
        p = mann_whitney(old * (1 + allowed), new)
        if p < SIGNIFICANT:
            slower = float(np.median(new) / np.median(old) - 1)
            found.append(f"{key} is {slower:.1%} slower than the baseline (allowed {allowed:.0%}, p = {p:.2g}).")
    return sorted(found)
