"""MLPerf Inference's published figures of ResNet-50, to be read beside ours.

``mlperf-resnet50.json`` has results of the closed division as their submitters published them, a row for each system
and scenario. MLPerf measures whole systems. Offline and Server are divided by the number of GPUs here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("mlperf-resnet50.json")
_SCENARIOS = {"offline": "Offline", "server": "Server", "single-stream": "SingleStream", "multi-stream": "MultiStream"}
_PER_GPU = ("Offline", "Server")  # the others are latencies of one query


def published(scenario: str, device: str) -> list[dict[str, Any]]:
    """Return what was published for a scenario, of this GPU alone where there is any.

    Args:
        scenario: As `tlopt loadgen` calls it.
        device: The name of the GPU here.
    """
    found = json.loads(FILE.read_text(encoding="utf-8"))
    rows = [_row(row) for row in found["results"] if row["scenario"] == _SCENARIOS[scenario]]
    words = device.replace("-", " ").split()
    return [row for row in rows if row["family"] in words] or rows


def _row(row: dict[str, Any]) -> dict[str, Any]:
    figure = {"per_gpu": round(row["value"] / row["gpus"], 1)} if row["scenario"] in _PER_GPU else {}
    return {**row, **figure}


def comparable(model: str, image_size: int) -> str:
    """Return why our figures cannot be held against MLPerf's, empty if they can.

    Args:
        model: The network that was measured, source:name.
        image_size: The side of its input, pixels.
    """
    name = model.partition(":")[2].partition(".")[0]
    if name != "resnet50":
        return f"MLPerf measures resnet50, this was {name}; give --model timm:resnet50.tv2_in1k"
    return "" if image_size == 224 else f"MLPerf's images have 224 px, these have {image_size}"
