"""A process of its own that opens an artifact and runs it when told.

`Process` is the side of the one who asks; the module itself, run as a program, is the other. They
talk in lines of JSON. What a runtime prints goes to stderr, past the conversation.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from tlopt import registry, trusted
from tlopt.artifact import Artifact
from tlopt.backends import DEFAULT, call_of, open_runner
from tlopt.errors import StageError, TloptError
from tlopt.measure.candidates import on_gpu
from tlopt.measure.speed.nvml import Nvml
from tlopt.process import children
from tlopt.process.waiting import sharing
from tlopt.reading.files import real_path
from tlopt.timing import lap


class Process:
    """An artifact opened in a process of its own.

    Args:
        artifact: What to run.
        backend: ``name`` or ``name:device``.
        threads: Processor threads inside one run; 0 for one per core.
        pool: The inputs to go through, in a file of `numpy.save`.
        cores: The cores that the process may use; empty for all.

    Raises:
        StageError: It cannot be opened there.
    """

    def __init__(
        self, artifact: Artifact, backend: str, *, threads: int, pool: Path, cores: Sequence[int] = ()
    ) -> None:
        self._what = f"{artifact.path} on {backend}"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._child = subprocess.Popen(
            children.command("tlopt.measure.speed.process"), env=children.environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        try:
            self.say(
                {
                    "artifact": str(real_path(artifact.path)),
                    "backend": backend,
                    "threads": threads,
                    "pool": str(pool),
                    "cores": list(cores),
                    "trusted": trusted.state(),
                }
            )
            self.hear()
        except BaseException:
            self.close()
            raise

    def say(self, message: Any) -> None:
        """Send a message."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `hear` tells why it is gone
            self._child.stdin.write(json.dumps(message) + "\n")
            self._child.stdin.flush()

    def hear(self) -> Any:
        """Wait for the answer.

        Raises:
            StageError: The process failed, or is gone.
        """
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            ended = children.ended(self._child.returncode)
            raise StageError(f"The process that ran {self._what} {ended}. {last}".rstrip())
        answer = json.loads(line)
        if "error" in answer:
            raise StageError(f"Running {self._what} in a separate process failed: {answer['error']}")
        return answer

    def memory_mb(self, batches: Sequence[int]) -> dict[int, tuple[float | None, float | None]]:
        """Return, per batch, the peak memory on the host and on the GPU; see `docs/measuring.md`."""
        self.say({"memory": sorted(batches)})
        return {int(batch): (host, device) for batch, (host, device) in self.hear()["memory"].items()}

    def prepare(self, batch: int) -> None:
        """Begin with one run that is not counted."""
        self.say({"prepare": batch})

    def ready(self) -> None:
        """Wait until that run is done."""
        self.hear()

    def start(self, runs: int) -> None:
        """Begin with the runs that count."""
        self.say({"runs": runs})

    def finish(self) -> tuple[np.ndarray, float, float]:
        """Wait for them; return what `timing.lap` returns."""
        answer = self.hear()
        return np.array(answer["ms"], np.float64), answer["began"], answer["ended"]

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def parts(pool: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Yield the batches of a pool of inputs, round and round."""
    count = max(1, len(pool) // batch)
    return itertools.cycle([np.ascontiguousarray(pool[i * batch : (i + 1) * batch]) for i in range(count)])


def _serve(requests: IO[str], answers: IO[str]) -> None:
    def answer(content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        with ExitStack() as stack:
            job = json.loads(requests.readline())
            if job["cores"]:
                os.sched_setaffinity(0, job["cores"])
            trusted.restore(job["trusted"])
            artifact = Artifact.load(job["artifact"])
            _import(artifact, job["backend"])
            pool = np.load(job["pool"])
            gpu = Nvml.open() if on_gpu(job["backend"]) else None
            watch = _Memory(gpu if isinstance(gpu, Nvml) else None)
            opening = open_runner(artifact, job["backend"], threads=job["threads"], compared=False)
            runner = stack.enter_context(opening)
            run = call_of(runner, artifact)
            answer({"opened": runner.name})
            gc.disable()
            call: Callable[[], object] = lambda: None  # noqa: E731 - replaced by the first "prepare"
            for line in requests:
                message = json.loads(line)
                if "memory" in message:
                    found = {}
                    for batch in message["memory"]:
                        inputs = parts(pool, batch)
                        for _ in range(3):
                            run(next(inputs))
                        found[batch] = watch.peak_mb()
                    answer({"memory": found})
                elif "prepare" in message:
                    inputs = parts(pool, message["prepare"])
                    call = lambda inputs=inputs: run(next(inputs))  # type: ignore[misc]  # noqa: E731
                    call()
                    answer({})
                else:
                    durations, began, ended = lap(call, message["runs"])
                    answer({"ms": durations.tolist(), "began": began, "ended": ended})
    except TloptError as error:
        answer({"error": error.message})
    except Exception as error:  # noqa: BLE001 - told to the one who asked, who raises it
        answer({"error": f"{str(error).strip().partition(chr(10))[0]} ({type(error).__name__})"})


def _import(artifact: Artifact, backend: str) -> None:
    """Import the runtime, and what rebuilds a network, without opening anything."""
    registry.load("backends", (backend or DEFAULT[artifact.card.kind]).partition(":")[0])
    source = artifact.card.model.partition(":")[0]
    if artifact.card.kind == "torch" and source in registry.names("sources"):
        registry.load("sources", source)


class _Memory:
    """How much memory this process has come to use since now."""

    def __init__(self, gpu: Nvml | None) -> None:
        self._gpu = gpu
        self._device_mb = gpu.used_mb() if gpu is not None else None
        gc.collect()
        try:
            # Forgets the peak reached so far, while importing (proc(5), clear_refs).
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._host_mb: float | None = _status_mb("VmRSS")
        except (OSError, ValueError):
            self._host_mb = None

    def peak_mb(self) -> tuple[float | None, float | None]:
        """Return the peak on the host, and what is held on the GPU."""
        host = None if self._host_mb is None else max(0.0, _status_mb("VmHWM") - self._host_mb)
        used = self._gpu.used_mb() if self._gpu is not None else None
        device = None if used is None or self._device_mb is None else max(0.0, used - self._device_mb)
        return host, device


def _status_mb(field: str) -> float:
    """Return a field of this process's status, kB there, 10^6 bytes here."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(field)


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with sharing():
        _serve(sys.stdin, own)
