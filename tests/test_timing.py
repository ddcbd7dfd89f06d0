from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest

from tlopt import timing as clocks
from tlopt.timing import Rotating, Timing, in_turns, medians_ms, side_by_side, turn, warm


def test_every_run_counts():
    timing = Timing(rounds=(np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0, 97.0])), warm_up=5, walls_s=(0.004, 0.1))
    assert timing.mean_ms == pytest.approx(17)
    assert timing.quantile_ms(1) == 97
    assert list(timing.medians_ms) == [1, 1]


def test_the_standard_error_comes_from_the_turns():
    timing = Timing(rounds=(np.array([1.0, 3.0]), np.array([3.0, 5.0])), warm_up=0, walls_s=(0.004, 0.01))
    assert timing.stderr_ms == pytest.approx(np.std([2, 4], ddof=1) / np.sqrt(2))


def test_a_turn_makes_one_run_that_is_not_counted():
    made = []
    durations = turn(lambda: made.append(1), 4)
    assert len(made) == 5
    assert durations.shape == (4,)
    assert (durations > 0).all()


def test_warm_up_goes_on_until_the_duration_is_stable():
    runs, typical_ms = warm(lambda: sum(range(1000)), seconds=0.2)
    assert runs >= 10
    assert typical_ms > 0


def test_warm_up_lasts_as_long_as_the_clocks_of_a_gpu_take_to_rise(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: next(clock) / 100)  # each reading takes 10 ms
    short, _ = warm(lambda: None, seconds=100)
    longer, _ = warm(lambda: None, seconds=100, at_least=2.0)
    assert short == 10
    assert longer == 100


def test_candidates_take_turns_and_each_gets_all_of_them():
    order: list[str] = []
    turns: list[None] = []
    timings = side_by_side(
        [lambda: order.append("a"), lambda: order.append("b")],
        seconds=0.002,
        turns=4,
        after_turn=lambda: turns.append(None),
    )
    assert len(turns) == 8
    assert [len(timing.rounds) for timing in timings] == [4, 4]
    # In each round both run: the sequence switches between them at least once a round.
    assert sum(x != y for x, y in itertools.pairwise(order)) >= 4


def test_sessions_take_a_turn_each():
    made = []
    three = [lambda name=name: made.append(name) for name in "abc"]
    (timing,) = in_turns([Rotating(three)], seconds=0.001, turns=6)
    after = [name for name, _ in itertools.groupby(made)][3:]  # the warm-up takes one after the other
    assert after == list("abcabc")
    assert len(timing.medians_ms) == 6


def test_the_garbage_collector_is_switched_back_on():
    side_by_side([lambda: None], seconds=0.001, turns=2)
    assert gc.isenabled()


def test_medians_of_calls_side_by_side_are_milliseconds_of_a_run(monkeypatch):
    now = [0]

    def taking(ms: int):
        def call():
            now[0] += ms * 1_000_000

        return call

    monkeypatch.setattr("time.perf_counter_ns", lambda: now[0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0] / 1e9)
    assert medians_ms([taking(20), taking(50)], seconds=0.4, turns=4, warm_s=0.1) == pytest.approx([20, 50])
