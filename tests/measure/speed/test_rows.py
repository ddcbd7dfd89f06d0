from __future__ import annotations

import types

import pytest

from tlopt.artifact import Artifact
from tlopt.candidates import Candidate
from tlopt.measure.speed.feeds import Inputs
from tlopt.measure.speed.process import _Memory
from tlopt.measure.speed.rows import Line
from tlopt.timing import Alone


class LaneRunner:
    """Test double of a TensorRT runner: its lane tells the GPU time of the last batch."""

    def __init__(self) -> None:
        self.lanes = [types.SimpleNamespace(gpu_ms=0.0, gpu_with_copies_ms=0.0)]
        self.made = 0

    def __call__(self, inputs):
        self.made += 1
        self.lanes[0].gpu_ms = 100.0 if self.made == 1 else float(len(inputs))
        self.lanes[0].gpu_with_copies_ms = self.lanes[0].gpu_ms + 0.5


def test_the_gpus_own_time_is_the_median_of_its_runs(tiny):
    details = types.SimpleNamespace(profile=types.SimpleNamespace(max_batch=4))
    engine = Artifact(path=tiny.path, card=types.SimpleNamespace(**vars(tiny.card), engine=details))
    line = Line(
        label="x", candidate=Candidate(engine, "tensorrt"), backend="tensorrt:cuda", streams=1,
        timed=lambda _: Alone(lambda: None), runner=LaneRunner(),
    )  # fmt: skip
    inputs = Inputs(None, noise=True, largest=4)
    assert line.gpu_ms(4, inputs) == {"gpu_ms": 4.0, "gpu_with_copies_ms": 4.5}
    assert line.gpu_ms(8, inputs) == {}  # it runs in pieces, and the lane knows the last one only


def test_memory_on_the_gpu_is_what_was_added():
    gpu = types.SimpleNamespace(used=300.0, used_mb=lambda: gpu.used)
    memory = _Memory(gpu)
    gpu.used = 812.5
    assert memory.peak_mb()[1] == pytest.approx(512.5)
