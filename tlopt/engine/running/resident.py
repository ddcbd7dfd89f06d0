"""How fast an engine is on a batch that stays on the GPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlopt.engine.running.lane import Lane

BEFORE = 3  # runs: as it is, captured, and launched as a graph


@dataclass(frozen=True, kw_only=True)
class Resident:
    """How fast the GPU is when nothing is copied and no batch waits for the processor.

    Args:
        gpu_ms: One batch, on one stream, back to back.
        images_per_s: All streams together.
    """

    gpu_ms: float
    images_per_s: float


def resident(lanes: Sequence[Lane], inputs: np.ndarray, *, runs: int) -> Resident:
    """Measure an engine as trtexec does with ``--noDataTransfers``; its context must be current.

    Args:
        lanes: Of one engine, idle.
        inputs: (n, *shape), n at most the engine's largest batch.
        runs: Runs of each lane, queued back to back.
    """
    for lane in lanes:
        for _ in range(BEFORE):
            lane.start(inputs)
            lane.finish()
    lanes[0].repeat(runs)
    alone_ms = lanes[0].repeated_ms() / runs
    started = time.perf_counter()
    for lane in lanes:
        lane.repeat(runs)
    for lane in lanes:
        lane.repeated_ms()
    seconds = time.perf_counter() - started
    return Resident(gpu_ms=alone_ms, images_per_s=len(lanes) * runs * len(inputs) / seconds)
