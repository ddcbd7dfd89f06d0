"""Batches copied by several threads are those copied by one."""

from __future__ import annotations

import numpy as np
import pytest

from tlopt.engine.running import filling


@pytest.mark.parametrize("cores", [1, 3, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 16])
def test_every_image_is_copied_and_nothing_else(monkeypatch, cores, count):
    monkeypatch.setattr(filling, "cores", lambda: cores)
    monkeypatch.setattr(filling, "_LARGE", 1)
    source = np.random.default_rng(count).standard_normal((count, 3, 4, 5), np.float32)
    target = np.full((16, 3, 4, 5), 7, np.float32)
    filling.fill(target[:count], source)
    np.testing.assert_array_equal(target[:count], source)
    assert (target[count:] == 7).all()


def test_a_copy_that_fails_in_a_thread_is_an_error(monkeypatch):
    monkeypatch.setattr(filling, "cores", lambda: 4)
    monkeypatch.setattr(filling, "_LARGE", 1)
    with pytest.raises(ValueError, match="could not broadcast"):
        filling.fill(np.zeros((8, 3)), np.zeros((8, 4)))
