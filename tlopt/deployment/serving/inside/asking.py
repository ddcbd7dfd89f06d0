"""Asks a server one thing after another, and several at once, over HTTP and gRPC.

python -I asking.py FOLDER    FOLDER has request.json and inputs.npz; answers.npz and answers.json are written into it.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent))

import messages  # beside this file, which -I does not search


def main() -> None:
    """Ask for everything, and write the answers."""
    folder = Path(sys.argv[1])
    told = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    served = messages.Served(**told["served"])
    with np.load(folder / "inputs.npz") as stored:
        inputs = [stored[name] for name in told["order"]]
    fixed = told["fixed"]
    if told["bytes"]:
        inputs = [np.array([one.tobytes()] * max(1, fixed), dtype=np.object_) for one in inputs]
    inputs = [one if fixed else one[None] for one in inputs]
    before = _batches(served, told["network"])
    answers: dict[str, np.ndarray] = {}
    labels: dict[str, list[list[str]]] = {}
    for protocol in ("http", "grpc"):
        ask = _asker(served, protocol)
        answers[f"{protocol}_single"] = np.stack([ask(one, classes=0) for one in inputs])
        with ThreadPoolExecutor(told["concurrent"]) as pool:
            many = inputs * told["repeats"]
            answers[f"{protocol}_concurrent"] = np.stack(list(pool.map(partial(ask, classes=0), many)))
        if told["classes"]:
            labels[protocol] = [_labels(ask(one, classes=told["classes"])) for one in inputs]
    np.savez(folder / "answers.npz", **answers)  # type: ignore[arg-type]
    ran = {size: count - before.get(size, 0) for size, count in _batches(served, told["network"]).items()}
    rest = {"labels": labels, "batches": {size: count for size, count in ran.items() if count}}
    (folder / "answers.json").write_text(json.dumps(rest), encoding="utf-8")


def _asker(served: messages.Served, protocol: str) -> Callable[..., np.ndarray]:
    local = threading.local()

    def ask(inputs: np.ndarray, classes: int) -> np.ndarray:
        if not hasattr(local, "client"):
            local.client = served.client(protocol)  # one for each thread: that of HTTP is bound to its thread
        found = local.client.infer(**served.request(protocol, inputs, classes=classes)).as_numpy(served.output)
        answers: np.ndarray = found
        return answers

    return ask


def _labels(answers: np.ndarray) -> list[str]:
    """Return the labels of an answer, best first; each element is value:index:label."""
    return [bytes(one).decode().split(":", 2)[2] for one in answers.reshape(-1)]


def _batches(served: messages.Served, network: str) -> dict[str, int]:
    """Return the batches that the network ran: size -> how often."""
    found: Any = served.client("http").get_inference_statistics(network)
    return {
        str(one["batch_size"]): int(one["compute_infer"]["count"]) for one in found["model_stats"][0]["batch_stats"]
    }


if __name__ == "__main__":
    main()
