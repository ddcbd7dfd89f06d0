"""Networks that were exported as they were trained, with several branches, beside what tlopt makes of them.

    python benchmarks/branches.py [--models repvgg_a0,mobileone_s0] [--turns 7] [--out …]

Each network has random weights, with which its batch norms differ from one another, and ranges from noise: neither
changes a time. In each runtime four graphs take turns, each opened anew: the file as it was exported, tlopt's fp32 and
int8 of it, and a peer's int8 of the file. The peer is quantize_static in ONNX Runtime, and NNCF in OpenVINO. The times
are shares of the exported file's. Needs timm and `python -m pip install nncf`.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from int8_judge import RESULTS, RUNTIMES, side_by_side
from int8_operators import BATCHES, PEERS, exported, shares, take

from tlopt.search.drafting import cast_graph

MODELS = "mobileone_s0,repvgg_a0,repghostnet_050,repvit_m0_9"
NAMES = ("tlopt, fp32", "tlopt, int8", "int8 of the other tool")


def measure(model: str, turns: int) -> Iterator[dict[str, Any]]:
    """Yield how long each graph of a network takes in a runtime, as a share of the exported file's time."""
    with tempfile.TemporaryDirectory() as place:
        fp32 = exported(model, Path(place), norms=True)
        file, size = Path(place) / "network.onnx", fp32.card.preprocess.size
        counts = [
            sum(node.op_type == "Conv" for node in onnx.load(path).graph.node) for path in (file, fp32.payload(".onnx"))
        ]
        noise = np.random.default_rng(0).normal(size=(4, 3, size, size)).astype(np.float32)
        for runtime, quantize in PEERS.items():
            folder = Path(place) / runtime
            folder.mkdir()
            made = {
                "peer": file,  # whose time is 1
                NAMES[0]: fp32.payload(".onnx"),
                NAMES[1]: cast_graph(fp32, folder / "int8", precision="int8", runtime=runtime).payload(".onnx"),
                NAMES[2]: quantize(file, noise, folder),
            }
            row: dict[str, Any] = {"model": model, "size": size, "runtime": runtime, "convolutions": counts}
            for batch in BATCHES:
                inputs = np.random.default_rng(1).normal(size=(batch, 3, size, size)).astype(np.float32)
                sides = {name: functools.partial(RUNTIMES[runtime], path) for name, path in made.items()}
                row[f"batch_{batch}"] = side_by_side(sides, inputs, turns)
            yield row


def table(result: dict[str, Any]) -> str:
    """Return the shares as a table."""
    lines = [
        "# Networks that were exported with their branches", "",
        f"{result['processor']}, {result['threads']} thread(s); `{result['command']}`. "
        "Times as shares of the exported file's, in fp32: medians of the turns and their 95 % intervals.", "",
        f"| network | px | convolutions, before and after | runtime | batch | {' | '.join(NAMES)} |",
        f"|---|--:|---|---|--:{'|--:' * len(NAMES)}|",
    ]  # fmt: skip
    for row in result["rows"]:
        for batch in BATCHES:
            before, after = row["convolutions"]
            lines.append(
                f"| {row['model']} | {row['size']} | {before}, {after} | {row['runtime']} | {batch} "
                f"| {shares(row[f'batch_{batch}'], NAMES)} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    take(__doc__, "branches.py", MODELS, RESULTS / "branches.json", measure, table)
