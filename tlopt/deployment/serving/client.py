"""What is asked of a server, by scripts in its environment: tritonclient is there and not in tlopt's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlopt.deployment.serving.environment import INSIDE, Environment
from tlopt.deployment.serving.server import Ports
from tlopt.errors import CheckError, StageError
from tlopt.process import children, programs, temporary

CONCURRENT = 8  # requests that are on their way at once
REPEATS = 8  # times that each input is asked for then


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A served model, and how its requests look.

    Args:
        model: Its name.
        network: Name of the model that runs the network: the same, or a step of it.
        input: Name of its input.
        output: Name of its output.
        takes_files: Whether a request holds image files, not numbers.
        fixed_batch: Images of every request, which its inputs have an axis for already; 0 for any number.
    """

    model: str
    network: str
    input: str
    output: str
    takes_files: bool
    fixed_batch: int = 0


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a server said to each request.

    Args:
        numbers: Way of asking ("http_single") -> float (requests, 1, classes); of concurrent ones all repeats in turn.
        labels: Protocol -> the best labels of each request.
        batches: Size of a batch -> how often the network ran one.
    """

    numbers: Mapping[str, np.ndarray]
    labels: Mapping[str, Sequence[Sequence[str]]]
    batches: Mapping[int, int]


def parse(environment: Environment, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Read configurations with Triton's own protobuf; return them as JSON types.

    Raises:
        CheckError: Triton does not understand one.
        StageError: The script failed.
    """
    found = []
    for file, line in zip(files, _run(environment, "parsing.py", *files).splitlines(), strict=True):
        told = json.loads(line)
        if "error" in told:
            raise CheckError(f"Triton's protobuf does not read {file.parent.name}/{file.name}: {told['error']}")
        found.append(told["config"])
    return found


def ask(
    environment: Environment, ports: Ports, endpoint: Endpoint, inputs: Sequence[np.ndarray], *, labels: int
) -> Answers:
    """Send each input over HTTP and gRPC, alone and then among others.

    Args:
        environment: Where tritonclient is.
        ports: Where the server listens.
        endpoint: The model.
        inputs: One for each request; a file's bytes as uint8 (n,).
        labels: How many of the best labels to ask for; 0 for none.

    Raises:
        StageError: The server answered with an error.
    """
    told = {"concurrent": CONCURRENT, "repeats": REPEATS, "classes": labels, "network": endpoint.network}
    with temporary.folder("client") as folder:
        _request(folder, ports, endpoint, inputs, told)
        _run(environment, "asking.py", folder)
        with np.load(folder / "answers.npz") as stored:
            numbers = dict(stored)
        rest = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    batches = {int(size): count for size, count in rest["batches"].items()}
    return Answers(numbers=numbers, labels=rest["labels"], batches=batches)


def load(
    environment: Environment,
    ports: Ports,
    endpoint: Endpoint,
    inputs: Sequence[np.ndarray],
    loads: Sequence[Mapping[str, Any]],
    *,
    expected: np.ndarray | None = None,
    stop_over_p99_ms: float = 0.0,
) -> list[dict[str, Any]]:
    """Load a server in one way after another; return each with what was measured.

    Args:
        environment: Where tritonclient is.
        ports: Where the server listens.
        endpoint: The model.
        inputs: One for each request, taken in turn; a file's bytes as uint8 (n,).
        loads: {"loop": "closed", "protocol", "callers", and "seconds" or "requests"} or {"loop": "open", "rate",
            "seconds", "seed"}.
        expected: The answers, float (inputs, classes), that each is compared with.
        stop_over_p99_ms: Leave out what follows the first load with a longer 99th percentile; 0 for none.

    Raises:
        StageError: The script failed.
    """
    told = {"loads": list(loads), "stop_over_p99_ms": stop_over_p99_ms}
    with temporary.folder("client") as folder:
        more = {} if expected is None else {"expected": expected}
        _request(folder, ports, endpoint, inputs, told, **more)
        _run(environment, "loading.py", folder)
        found: list[dict[str, Any]] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def _request(
    folder: Path,
    ports: Ports,
    endpoint: Endpoint,
    inputs: Sequence[np.ndarray],
    told: Mapping[str, Any],
    **more: np.ndarray,
) -> None:
    """Write what a script reads."""
    order = [f"input_{number}" for number in range(len(inputs))]
    np.savez(folder / "inputs.npz", **dict(zip(order, inputs, strict=True)), **more)  # type: ignore[arg-type]
    served = {
        **{name: value for name, value in asdict(endpoint).items() if name in ("model", "input", "output")},
        "http": f"{ports.address}:{ports.http}", "grpc": f"{ports.address}:{ports.grpc}",
    }  # fmt: skip
    request = {
        **told, "served": served, "order": order, "bytes": endpoint.takes_files, "fixed": endpoint.fixed_batch,
    }  # fmt: skip
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")


def _run(environment: Environment, script: str, *arguments: object) -> str:
    """Run a script in the server's environment and return what it printed.

    Raises:
        StageError: It failed; its last line says why.
    """
    done = subprocess.run(
        programs.script(environment.python, INSIDE / script, *arguments),
        env=programs.environment(), cwd=environment.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [children.ended(done.returncode)])[-1]
        raise StageError(
            f"Asking the server failed: {last}", hint=f"The script is {script}, run by {environment.python}."
        )
    return done.stdout
