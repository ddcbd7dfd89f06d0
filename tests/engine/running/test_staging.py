"""Batches that go through page-locked memory arrive as they were, and the memory is given back."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from tlopt.engine.driver import DriverError
from tlopt.engine.running import staging
from tlopt.engine.running.staging import Staging
from tlopt.errors import MissingLibraryError


class Locked:
    def __init__(self, driver, shape, dtype):
        self.array, self._driver = np.full(shape, 7, dtype), driver

    def free(self):
        assert self._driver.inside
        self._driver.held.remove(self)


class Driver:
    """Counts what it has given away."""

    def __init__(self):
        self.held, self.inside, self.full = [], False, False

    @contextmanager
    def current(self):
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def locked(self, shape, dtype):
        assert self.inside
        if self.full:
            raise DriverError("CUDA_ERROR_OUT_OF_MEMORY")
        self.held.append(Locked(self, shape, dtype))
        return self.held[-1]


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    monkeypatch.setattr(staging.drivers, "load", lambda: made)
    monkeypatch.setattr(staging, "SMALL", 100)
    return made


def batch(count, side=4, dtype=np.float32):
    return np.random.default_rng(count).standard_normal((count, 3, side, side)).astype(dtype)


def test_each_batch_arrives_whatever_came_before(driver):
    stage = Staging()
    assert stage.works
    for one in (batch(4), batch(2), batch(4), batch(6), batch(2, side=8), batch(4, dtype=np.float16)):
        np.testing.assert_array_equal(stage.put(one), one)
        assert len(driver.held) == 1
    stage.close()
    stage.close()
    assert not driver.held


def test_memory_that_is_large_enough_is_kept(driver):
    stage = Staging()
    first = stage.put(batch(4)).base
    assert stage.put(batch(3)).base is first
    assert stage.put(batch(5)).base is not first
    stage.close()


def test_memory_that_cannot_be_given_back_is_no_error(driver, monkeypatch):
    def refused(self):
        raise DriverError("CUDA_ERROR_ILLEGAL_ADDRESS")

    stage = Staging()
    stage.put(batch(4))
    monkeypatch.setattr(Locked, "free", refused)
    stage.close()


def test_a_small_batch_stays_where_it_is(driver):
    one = np.zeros((1, 3, 2, 2), np.float32)
    assert Staging().put(one) is one
    assert not driver.held


def test_without_room_batches_stay_where_they_are(driver):
    stage = Staging()
    stage.put(batch(4))
    driver.full = True
    larger = batch(8)
    assert stage.put(larger) is larger
    assert not stage.works
    assert not driver.held
    assert stage.put(batch(4)) is not None
    stage.close()


def test_without_a_package_for_the_driver_batches_stay_where_they_are(monkeypatch):
    def missing():
        raise MissingLibraryError("pycuda is not installed.")

    monkeypatch.setattr(staging.drivers, "load", missing)
    stage, one = Staging(), batch(64, side=64)
    assert not stage.works
    assert stage.put(one) is one
    stage.close()
