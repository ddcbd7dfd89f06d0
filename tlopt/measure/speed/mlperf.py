"""MLPerf's load generator, driven: it issues the queries, takes the time and judges; this module answers them.

V. J. Reddi et al., "MLPerf Inference Benchmark", arXiv 1911.02549.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tlopt.backends import Runner
from tlopt.errors import StageError, reason
from tlopt.process import interrupts
from tlopt.reading.schema import SchemaError, parse_json
from tlopt.reports import Scalar

Scenario = Literal["single-stream", "multi-stream", "offline", "server"]

NAMES = {"single-stream": "SingleStream", "multi-stream": "MultiStream", "offline": "Offline", "server": "Server"}
SAMPLES = {"single-stream": 1, "multi-stream": 8}  # per query; LoadGen's mlperf.conf
_OFFLINE_S = 660  # LoadGen makes the offline query 1.1 times as long as its shortest duration, 600 s
_SHORTEST_S = 600  # LoadGen's mlperf.conf
# LoadGen 6.0.17 prepares the server's queries for 600 s beforehand, at 0.5 kB and 7 microseconds each.
_PREPARED_QPS = 500.0
_INTERRUPTED = threading.Event()  # LoadGen has one test at a time, and an interrupted one never ends
_RULES = {
    "result_min_duration_met": "min duration",
    "result_min_queries_met": "min queries",
    "early_stopping_met": "early stopping",
    "result_perf_constraints_met": "latency",
}


def wanted(
    scenario: Scenario, size: int, seconds: float, typical_ms: float, qps: float | None, latency_ms: float | None
) -> dict[str, float]:
    """Return what LoadGen is told; everything else is its own."""
    told: dict[str, float] = {}
    if scenario == "offline":
        # One query that takes as long as wanted: LoadGen sizes it from the rate that it expects.
        told["target_qps"] = size * 1e3 / typical_ms * seconds / _OFFLINE_S
        return told
    if seconds < _SHORTEST_S:
        told["max_duration"] = max(1, round(seconds * 1e3))
    if scenario == "server":
        told["target_qps"] = qps or min(0.5e3 / typical_ms, _PREPARED_QPS)
        if latency_ms is not None:
            told["target_latency"] = latency_ms
    else:
        # LoadGen prepares as many queries as fit into its shortest duration at this latency.
        told["target_latency"] = typical_ms / 2 * max(1.0, _SHORTEST_S / seconds)
    return told


class Answers:
    """Answers LoadGen's queries with a runner.

    An exception must not fly through LoadGen: it is kept in `failure`, and the queries left are
    answered with nothing. LoadGen has no way to end a test before its time: `abandon` leaves it waiting.
    """

    def __init__(self, library: Any, runner: Runner, pool: np.ndarray, batch: int) -> None:
        self._library, self._runner, self._pool, self._batch = library, runner, pool, batch
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._abandoned = False
        self.failure: Exception | None = None

    def at_once(self, samples: Sequence[Any]) -> None:
        """Answer the samples of a query."""
        self._hold()
        for first in range(0, len(samples), self._batch):
            self._answer(samples[first : first + self._batch])

    def later(self, samples: Sequence[Any]) -> None:
        """Leave the samples to `serve`: LoadGen must not wait here."""
        self._hold()
        for sample in samples:
            self._waiting.put(sample)

    def serve(self) -> None:
        """Answer what waits, as many at once as there are up to the batch, until told to stop."""
        while (sample := self._waiting.get()) is not None:
            samples = [sample]
            while len(samples) < self._batch and not self._waiting.empty():
                samples.append(self._waiting.get())
            self._answer(samples)

    def stop(self) -> None:
        """End `serve`; LoadGen has all its answers."""
        self._waiting.put(None)

    def abandon(self) -> None:
        """Answer nothing any more: LoadGen's next query holds the thread that it runs in for good."""
        self._abandoned = True
        self.stop()

    def _hold(self) -> None:
        if self._abandoned:
            threading.Event().wait()

    def _answer(self, samples: Sequence[Any]) -> None:
        self._hold()
        if self.failure is None:
            try:
                self._runner(self._pool[[sample.index for sample in samples]])
            except Exception as error:  # noqa: BLE001 - raised again after the test
                self.failure = error
        response = self._library.QuerySampleResponse
        self._library.QuerySamplesComplete([response(sample.id, 0, 0) for sample in samples])


def test(library: Any, scenario: Scenario, folder: Path, answers: Answers, count: int) -> None:
    """Run a test; LoadGen writes its logs into the folder.

    Raises:
        StageError: A test was interrupted in this process before.
    """
    if _INTERRUPTED.is_set():
        raise StageError(
            "LoadGen was interrupted in this process, and runs no other test in it.", hint="Start Python anew."
        )
    settings = library.TestSettings()
    # Type 0 is its own rules. LoadGen 6.0.17 adds them by itself only to the first settings of a process.
    settings.FromConfig("", "tlopt", NAMES[scenario], 0)
    settings.FromConfig(str(folder / "user.conf"), "tlopt", NAMES[scenario], 1)
    settings.scenario = getattr(library.TestScenario, NAMES[scenario])
    settings.mode = library.TestMode.PerformanceOnly
    output = library.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    log = library.LogSettings()
    log.log_output = output
    log.enable_trace = False

    def nothing(*_: Any) -> None:
        """Load or flush: the samples lie in memory, and none is held back."""

    server = threading.Thread(target=answers.serve, daemon=True)
    server.start()
    system = library.ConstructSUT(answers.later if scenario == "server" else answers.at_once, nothing)
    samples = library.ConstructQSL(count, count, nothing, nothing)
    _interruptible(
        lambda: library.StartTestWithLogSettings(system, samples, settings, log, str(folder / "audit.config")), answers
    )
    answers.stop()
    server.join()
    library.DestroyQSL(samples)
    library.DestroySUT(system)
    if answers.failure is not None:
        raise answers.failure


def _interruptible(run: Callable[[], None], answers: Answers) -> None:
    """Run LoadGen in a thread of its own: Ctrl-C interrupts this one, and never flies through LoadGen."""
    failures: list[Exception] = []

    def running() -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
            failures.append(error)

    thread = threading.Thread(target=running, daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        _INTERRUPTED.set()
        interrupts.abandon()
        answers.abandon()
        raise
    if failures:
        raise failures[0]


def read_log(file: Path) -> dict[str, Any]:
    """Return the results and effective settings of LoadGen's detail log, key -> value.

    Raises:
        StageError: The log is missing or damaged.
    """
    found = {}
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith(":::MLLOG "):
                entry = parse_json(line.removeprefix(":::MLLOG "), finite=False)
                if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or "value" not in entry:
                    raise SchemaError(f"line {number} has no key and value")
                if entry["key"].startswith(("result_", "early_stopping", "effective_", "loadgen_version")):
                    found[entry["key"]] = entry["value"]
    except (OSError, ValueError) as error:
        raise StageError(
            f"The log of LoadGen, {file}, cannot be read: {reason(error)}.", hint="Run it again."
        ) from error
    return found


def figures(scenario: Scenario, log: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return LoadGen's figures and verdict as columns."""
    row: dict[str, Scalar] = {}
    if scenario != "offline":  # there it has one query
        names = {"p50_ms": "50.00_percentile", "p90_ms": "90.00_percentile", "p99_ms": "99.00_percentile"}
        for column, name in (names | {"mean_ms": "mean", "min_ms": "min"}).items():
            row[column] = log[f"result_{name}_latency_ns"] / 1e6
    rate = next(
        (log[key] for key in ("result_samples_per_second", "result_completed_samples_per_sec") if key in log), None
    )
    if rate is not None:
        row["images_per_s"] = rate
    if scenario == "server":
        row["target_qps"] = log["effective_target_qps"]
        row["target_latency_ms"] = log["effective_target_latency_ns"] / 1e6
    row["queries"] = log["result_query_count"]
    row["verdict"] = log["result_validity"]
    row["not_met"] = ", ".join(rule for key, rule in _RULES.items() if log.get(key) is False)
    return row
