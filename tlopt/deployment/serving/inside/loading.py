"""Loads a server and says what it made of that: answers a second, and how long they took.

python -I loading.py FOLDER    FOLDER has request.json and inputs.npz; result.json is written into it.

Closed loop: so many clients, each of which sends its next request when it has its answer. Open loop: requests come at
random with so many a second, whether or not the server keeps up; their time counts from when they were due.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent))

import messages  # beside this file, which -I does not search

_TOLERANCE = 1e-3  # of the spread of the answers: another batch adds up in another order


class Tally:
    """Counts answers, those that are wrong, and requests without one."""

    def __init__(self, expected: np.ndarray | None) -> None:
        self._expected = expected
        self._limit = 0.0 if expected is None else _TOLERANCE * max(float(expected.std()), 1e-6)
        self._lock = threading.Lock()
        self.times: list[float] = []
        self.wrong = 0
        self.lost = 0
        self.first_error = ""

    def add(self, which: int, seconds: float, answer: np.ndarray | None, error: str = "") -> None:
        """Count one answer to the input of this number, None if an error came instead."""
        wrong = answer is not None and self._expected is not None and not self._fits(which, answer)
        with self._lock:
            self.times.append(seconds)
            self.wrong += wrong
            self.lost += answer is None
            self.first_error = self.first_error or error

    def _fits(self, which: int, answer: np.ndarray) -> bool:
        assert self._expected is not None
        return bool(np.abs(answer.reshape(-1) - self._expected[which].reshape(-1)).max() <= self._limit)

    def result(self, wall: float) -> dict[str, Any]:
        """Return what was counted in so many seconds."""
        times = np.sort(np.array(self.times or [float("nan")])) * 1000
        return {
            "requests": len(self.times), "wrong": self.wrong, "lost": self.lost, "error": self.first_error,
            "per_s": len(self.times) / wall, "seconds": wall, "mean_ms": float(times.mean()),
            "p50_ms": float(np.quantile(times, 0.5)), "p99_ms": float(np.quantile(times, 0.99)),
            "max_ms": float(times[-1]),
        }  # fmt: skip


def closed(served: messages.Served, told: dict[str, Any], inputs: list[np.ndarray], tally: Tally) -> float:
    """Ask from several threads, each with a client of its own; return the seconds it took."""
    protocol, callers = told["protocol"], told["callers"]
    requests = [served.request(protocol, one) for one in inputs]
    start = threading.Barrier(callers + 1)
    left: list[int] = [told.get("requests", 0)]
    lock = threading.Lock()

    def more(until: float) -> bool:
        if not told.get("requests"):
            return time.perf_counter() < until
        with lock:
            left[0] -= 1
            return left[0] >= 0

    def call(number: int) -> None:
        client = served.client(protocol)
        client.infer(**requests[number % len(requests)])  # opens the connection
        start.wait()
        until, which = time.perf_counter() + told.get("seconds", 0), number
        while more(until):
            which = (which + 1) % len(requests)
            began = time.perf_counter()
            try:
                answer, error = client.infer(**requests[which]).as_numpy(served.output), ""
            except Exception as raised:  # noqa: BLE001 - it is counted, and said
                answer, error = None, str(raised)
            tally.add(which, time.perf_counter() - began, answer, error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def opened(served: messages.Served, told: dict[str, Any], inputs: list[np.ndarray], tally: Tally) -> float:
    """Send requests over gRPC when they are due, by a Poisson process; return the seconds until the last answer."""
    requests = [served.request("grpc", one) for one in inputs]
    random = np.random.default_rng(told["seed"])
    count = max(1, int(told["rate"] * told["seconds"]))
    due = np.cumsum(random.exponential(1 / told["rate"], count))
    client = served.client("grpc")
    client.infer(**requests[0])
    all_there = threading.Semaphore(0)

    def send(number: int, when: float) -> None:
        which = number % len(requests)

        def answered(result: Any, error: Any) -> None:
            seconds = time.perf_counter() - when
            tally.add(which, seconds, None if error else result.as_numpy(served.output), str(error or ""))
            all_there.release()

        client.async_infer(**requests[which], callback=answered)

    began = time.perf_counter()
    for number, offset in enumerate(due):
        wait = began + offset - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        send(number, began + offset)
    for _ in range(count):
        all_there.acquire()
    return time.perf_counter() - began


def main() -> None:
    """Load the server as request.json says."""
    folder = Path(sys.argv[1])
    told = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    with np.load(folder / "inputs.npz") as stored:
        inputs = [stored[name] for name in told["order"]]
        expected = stored["expected"] if "expected" in stored.files else None
    fixed = told["fixed"]
    if told["bytes"]:
        inputs = [np.array([one.tobytes()] * max(1, fixed), dtype=np.object_) for one in inputs]
    inputs = [one if fixed else one[None] for one in inputs]
    served = messages.Served(**told["served"])
    results = []
    for load in told["loads"]:
        tally = Tally(expected)
        wall = (opened if load["loop"] == "open" else closed)(served, load, inputs, tally)
        results.append({**load, **tally.result(wall)})
        limit = told.get("stop_over_p99_ms")
        if limit and (results[-1]["p99_ms"] > limit or results[-1]["lost"]):
            break
    (folder / "result.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
