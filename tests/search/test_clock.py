import pytest

from tlopt.progress import bar
from tlopt.search.funnel.clock import Clock, TimeIsUpError


@pytest.fixture
def now():
    return [0.0]


def test_time_is_kept_back_for_the_answer_and_earlier_runs_count(now):
    clock = Clock(minutes=1.0, before_s=20.0, reserve_s=5.0, now=lambda: now[0])
    assert clock.left_s == 35.0
    now[0] = 10.0
    assert (clock.left_s, clock.spent_s) == (25.0, 30.0)


def test_whatever_shows_its_progress_ends_when_the_time_is_up(now):
    clock = Clock(minutes=1.0, now=lambda: now[0])
    with clock.ending(), bar("Training", 3) as shown:
        shown.advance()
        now[0] = 61.0
        with pytest.raises(TimeIsUpError):
            shown.advance()
    with bar("After it", 1) as shown:
        shown.advance()


def test_what_is_neither_work_nor_waiting_is_overhead(now):
    clock = Clock(minutes=1.0, now=lambda: now[0])
    with clock.working("train"):
        now[0] += 9.0
    now[0] += 0.5
    with clock.waiting():
        now[0] += 2.0
    assert clock.overhead_s == pytest.approx(0.5)
    assert clock.worked_s == {"train": 9.0}
