"""Which rows no other row beats."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tlopt.search.pareto import front


def test_rows_that_another_beats_are_not_on_the_front():
    assert front([(1, 3), (2, 2), (3, 1), (3, 3), (2, 3)]) == [True, True, True, False, False]


def test_equal_rows_are_both_on_the_front():
    assert front([(1, 1), (1, 1)]) == [True, True]


def test_what_was_not_measured_is_not_on_the_front():
    assert front([(float("nan"), 0), (1, 1)]) == [False, True]
    assert front([]) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_the_front_is_what_a_search_over_all_pairs_finds(rows):
    values = np.array(rows)
    beaten = [bool(((values <= row).all(1) & (values < row).any(1)).any()) for row in values]
    assert front(rows) == [not one for one in beaten]
