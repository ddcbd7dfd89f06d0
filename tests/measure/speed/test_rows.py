from __future__ import annotations

import types

import pytest

from tlopt.artifact import Artifact
from tlopt.measure.candidates import Candidate
from tlopt.measure.speed.feeds import Inputs
from tlopt.measure.speed.process import _Memory
from tlopt.measure.speed.rows import Line
from tlopt.timing import Alone


class ClockRunner:
    """Test double of a runner whose GPU tells the time of the last batch."""

    def __init__(self) -> None:
        self.gpu_ms, self.made = 0.0, 0

    def __call__(self, inputs):
        self.made += 1
        self.gpu_ms = 100.0 if self.made == 1 else float(len(inputs))

    def gpu_times_ms(self):
        return self.gpu_ms, self.gpu_ms + 0.5


def test_the_gpus_own_time_is_the_median_of_its_runs(tiny):
    details = types.SimpleNamespace(profile=types.SimpleNamespace(max_batch=4))
    engine = Artifact(path=tiny.path, card=types.SimpleNamespace(**vars(tiny.card), engine=details, task="classify"))
    line = Line(
        label="x", candidate=Candidate(engine, "tensorrt"), backend="tensorrt:cuda", streams=1,
        timed=lambda _: Alone(lambda: None), runner=ClockRunner(),
    )  # fmt: skip
    inputs = Inputs(None, noise=True, largest=4)
    assert line.gpu_ms(4, inputs) == {"gpu_ms": 4.0, "gpu_with_copies_ms": 4.5}
    assert line.gpu_ms(8, inputs) == {}  # it runs in pieces, and the clock knows the last one only


def test_a_runner_without_a_gpus_clock_says_nothing_of_it(tiny):
    line = Line(
        label="x", candidate=Candidate(tiny, "onnxruntime"), backend="onnxruntime:cpu", streams=1,
        timed=lambda _: Alone(lambda: None), runner=lambda inputs: inputs,
    )  # fmt: skip
    assert line.gpu_ms(1, Inputs(None, noise=True, largest=1)) == {}


def test_memory_on_the_gpu_is_what_was_added():
    gpu = types.SimpleNamespace(used=300.0, used_mb=lambda: gpu.used)
    memory = _Memory(gpu)
    gpu.used = 812.5
    assert memory.peak_mb()[1] == pytest.approx(512.5)
