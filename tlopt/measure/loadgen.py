"""MLPerf's scenarios, driven and judged by its own load generator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from tlopt import registry
from tlopt.artifact import Artifact
from tlopt.backends import Runner
from tlopt.backends._logits import check_logits
from tlopt.environment import MOST_THREADS, cores, processor, versions
from tlopt.images import intrusion
from tlopt.measure.candidates import Candidate, candidates, labels, opened, running
from tlopt.measure.speed import mlperf
from tlopt.measure.speed.feeds import Inputs
from tlopt.measure.speed.mlperf import SAMPLES, Scenario
from tlopt.measure.speed.process import parts
from tlopt.measure.speed.rows import counted, identity, not_run
from tlopt.progress import track
from tlopt.publishing import check_place
from tlopt.reports import Report, Scalar
from tlopt.settings import MOST_IN_BATCH, Setting, checked
from tlopt.timing import warm


@checked
def loadgen(
    artifacts: Sequence[str | Path | Artifact],
    *,
    scenario: Annotated[Scenario, Setting("How the queries arrive.")] = "single-stream",
    seconds: Annotated[
        float, Setting("Duration of a run. LoadGen calls a run of less than 600 seconds invalid.", minimum=0.01)
    ] = 600.0,
    backend: Annotated[tuple[str, ...], Setting("Backends, or backend:device. Default: the usual ones.")] = (),
    batch: Annotated[
        int, Setting("Largest batch in the offline and server scenarios.", minimum=1, maximum=MOST_IN_BATCH)
    ] = 32,
    threads: Annotated[
        int, Setting("Processor threads of a run. 0 takes one per core.", minimum=0, maximum=MOST_THREADS)
    ] = 0,
    target_qps: Annotated[
        float | None,
        Setting(
            "Queries a second in the server scenario. Default: half of what is possible, at most 500.", minimum=0.01
        ),
    ] = None,
    target_latency: Annotated[
        float | None,
        Setting(
            "Milliseconds within which 99 % of the answers must come in the server scenario. Default: 10.",
            minimum=0.001,
        ),
    ] = None,
    images: Annotated[Path | None, Setting("Folder of images to run. Default: the training images.")] = None,
    noise: Annotated[bool, Setting("Run random inputs instead of images.")] = False,
    logs: Annotated[Path, Setting("Folder for LoadGen's logs.")] = Path("loadgen-logs"),
) -> Report:
    """Measure artifacts with MLPerf's load generator.

    The artifacts are measured one after the other. LoadGen's own rules decide whether a run is
    valid.

    In single-stream and multi-stream the next query waits for the last answer. In offline all
    queries are there at once. In server they arrive at random.

    Raises:
        ArtifactError: An artifact is damaged, or no classifier.
        ImagesError: `images` holds no images.
        MissingLibraryError: LoadGen, or the library of a named backend, is not installed.
        PluginError: A backend is unknown.
        StageError: A runtime failed while running.
        OutputError: The logs would lie among the images, or cannot be written.
    """
    library = registry.require("mlperf_loadgen")
    loaded = [Artifact.load(artifact).expect_classifier("loadgen") for artifact in artifacts]
    named = dict(zip((artifact.path for artifact in loaded), labels(loaded), strict=True))
    inputs = Inputs(images, noise=noise, largest=batch)
    tried = [(named[one.artifact.path], one) for one in candidates(loaded, backend)]
    logs = logs / datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    check_place(logs)
    intrusion.refuse(logs, [images] if images else [one.card.images.path for one in loaded if one.card.images])
    told = _Told(scenario=scenario, seconds=seconds, target_qps=target_qps, target_latency=target_latency)
    rows: list[dict[str, Scalar]] = []
    skipped: list[dict[str, Scalar]] = []
    found: dict[str, dict[str, Any]] = {}
    conditions: dict[str, Any] = {}
    for label, one in track(tried, label=f"LoadGen, {scenario}", total=len(tried)):
        with opened(one, threads=threads) as runner:
            if isinstance(runner, str):
                skipped.append({**identity(label, one, one.backend), "skipped": runner})
                continue
            conditions[runner.name] = dict(runner.conditions)
            size = SAMPLES.get(scenario, batch)
            folder = logs / "-".join((label.replace("/", "-"), runner.name.replace(":", "-"), scenario))
            log = found[folder.name] = _measured(library, told, one, runner, inputs, size, folder)
            rows.append({**identity(label, one, runner.name), "batch": size, **mlperf.figures(scenario, log)})
    return Report(
        title=f"MLPerf LoadGen, {scenario}, {counted(len(rows))}",
        rows=(*rows, *skipped),
        conditions={
            "processor": processor(),
            "cores": cores(),
            "threads": threads or cores(),
            "scenario": scenario,
            "seconds": seconds,
            "input": inputs.what,
            "logs": str(logs),
            "runners": conditions,
            "versions": versions(),
        },
        notes=tuple(_notes(found.values(), logs)) if rows else (),
        not_run=not_run(skipped, named=bool(backend), ran=bool(rows)),
        details={"loadgen": found},
    )


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What the user wants of LoadGen."""

    scenario: Scenario
    seconds: float
    target_qps: float | None
    target_latency: float | None


def _measured(
    library: Any, told: _Told, one: Candidate, runner: Runner, inputs: Inputs, size: int, folder: Path
) -> dict[str, Any]:
    """Measure a candidate; return what LoadGen logged."""
    pool = inputs.of(one.artifact)
    with running(one.artifact, runner.name):
        source = parts(pool, 1 if told.scenario == "server" else size)
        check_logits(runner(next(source)), one.artifact, runner.name)
        typical_ms = warm(lambda: runner(next(source)))[1]
    folder.mkdir(parents=True)
    wanted = mlperf.wanted(told.scenario, size, told.seconds, typical_ms, told.target_qps, told.target_latency)
    name = mlperf.NAMES[told.scenario]
    lines = "".join(f"*.{name}.{key} = {value}\n" for key, value in wanted.items())
    (folder / "user.conf").write_text(lines, encoding="utf-8")
    answers = mlperf.Answers(library, runner, pool, size)
    with running(one.artifact, runner.name):
        mlperf.test(library, told.scenario, folder, answers, len(pool))
    return mlperf.read_log(folder / "mlperf_log_detail.txt")


def _notes(found: Iterable[Mapping[str, Any]], logs: Path) -> list[str]:
    notes = []
    if short := [log for log in found if log.get("result_min_duration_met") is False]:
        least = short[0]["effective_min_duration_ms"] / 1e3
        notes.append(f"LoadGen calls every run below MLPerf's {least:.0f} s INVALID; --seconds {least:.0f} meets it.")
    notes.append(f"LoadGen's logs: {logs}")
    return notes
