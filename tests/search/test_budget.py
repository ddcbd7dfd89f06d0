import dataclasses
import math

import pytest
from searches import timed

from tlopt.errors import SettingError
from tlopt.search.budget import Budget


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs a limit"),
        ({"min_accuracy": 0.9}, "needs a limit"),
        ({"latency_ms": 0.0}, "latency_ms must be above 0, got 0"),
        ({"size_mb": 0.0, "latency_ms": 1.0}, "size_mb must be above 0"),
        ({"latency_ms": 1.0, "min_accuracy": 0.9, "max_drop": 0.1}, "both say which accuracy"),
        ({"latency_ms": 5.0, "latency_p99_ms": 4.0}, "contradicts latency_ms 5"),
        ({"latency_ms": 5.0, "throughput": 1000.0}, r"contradicts latency_ms 5: a run of 1 may take 1 ms"),
    ],
)
def test_a_budget_that_says_nothing_or_contradicts_itself_is_refused(given, message):
    with pytest.raises(SettingError, match=message) as caught:
        Budget(**given).check()
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_limits_of_several_kinds_make_one_limit_of_time():
    budget = Budget(latency_ms=9.0, throughput=400.0, batch=4, latency_p99_ms=12.0)
    budget.check()
    assert budget.limit_ms == 9.0
    assert Budget(throughput=400.0, batch=4).limit_ms == 10.0
    assert Budget(latency_p99_ms=3.0).limit_ms == 3.0
    assert Budget(size_mb=1.0).limit_ms == math.inf


def test_what_noise_may_explain_is_neither_over_nor_within():
    budget = Budget(latency_ms=5.0)
    assert budget.over(timed(5.2)) == "5.2 ms, over 5 ms"
    assert not budget.over(timed(5.05))
    assert "with noise" in budget.unmet(timed(4.95))
    assert not budget.unmet(timed(4.8))


def test_what_is_fast_enough_but_for_noise_is_in_doubt():
    budget = Budget(latency_ms=5.0)
    assert budget.in_doubt(timed(4.95))
    assert not budget.in_doubt(timed(4.8))  # within
    assert not budget.in_doubt(timed(5.05))  # slower than asked for, whatever the noise
    assert not budget.in_doubt(dataclasses.replace(timed(4.95), problem="It is broken."))
    assert not Budget(latency_ms=5.0, size_mb=2.0).in_doubt(timed(4.95, size_mb=2.5))  # too large, however fast


def test_each_limit_is_looked_at():
    assert "9 ms for 99 of 100 runs" in Budget(latency_p99_ms=8.0).over(timed(6.0, p99=1.5))
    assert Budget(size_mb=2.0).unmet(timed(1.0, size_mb=2.5)) == "2.5 MB, over 2 MB"
    assert "150 MB of memory" in Budget(memory_mb=100.0).over(timed(1.0, memory_mb=150.0))
    assert Budget(latency_ms=5.0, size_mb=2.0).excess(timed(4.0, size_mb=6.0)) == 3.0


def test_memory_that_was_not_measured_keeps_to_no_limit():
    budget = Budget(memory_mb=100.0)
    assert budget.unmet(timed(1.0)) == budget.over(timed(1.0)) == "its memory could not be measured"
    assert not budget.unmet(timed(1.0, memory_mb=50.0))
    assert not Budget(latency_ms=5.0).unmet(timed(1.0))


def test_a_budget_is_told_in_words():
    told = Budget(latency_ms=5.0, batch=8, size_mb=2.5, max_drop=0.01).told()
    assert told == "5 ms a run, 2.5 MB, 1 points less accurate at most, 8 images a run"
