from __future__ import annotations

import threading

import numpy as np
import pytest

from tlopt.errors import StageError
from tlopt.measure.candidates import Candidate
from tlopt.measure.speed import callers as module
from tlopt.measure.speed.callers import Together, open_callers
from tlopt.measure.speed.process import Process

POOL = np.random.default_rng(0).standard_normal((8, 3, 16, 16), dtype=np.float32)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_threads_run_at_once_and_the_wall_clock_is_that_of_all(tiny, backend):
    with open_callers(Candidate(tiny, backend), POOL, streams=3, threads=1, kind="threads") as members:
        together = Together(members, 2)
        durations, wall_s = together.turn(50)
        assert together.callers == 3
        assert durations.shape == (150,)
        assert durations.max() / 1e3 <= wall_s
        made, typical_ms = together.warm()
        assert made >= 36
        assert typical_ms > 0
    assert "caller" not in {thread.name for thread in threading.enumerate()}


def test_processes_run_at_once_and_end(tiny, monkeypatch):
    ended = []
    monkeypatch.setattr(module.Process, "close", lambda self: (ended.append(self), Process_close(self)))
    with open_callers(Candidate(tiny, "onnxruntime"), POOL, streams=2, threads=1, kind="processes") as members:
        durations, wall_s = Together(members, 4).turn(5)
        assert durations.shape == (10,)
        assert wall_s < 60  # both clocks are one: the machine's
    assert len(ended) == 2
    assert all(child._child.returncode == 0 for child in ended)


Process_close = Process.close


def test_processes_get_cores_of_their_own_where_there_are_enough(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert module._cores_of_each(2, 2) == [[0, 1], [2, 3]]
    assert module._cores_of_each(2, 3) == [[], [], []]


def test_a_thread_that_fails_fails_the_turn(tiny):
    with (
        open_callers(Candidate(tiny, "onnxruntime"), POOL[:, :, :8], streams=2, threads=1, kind="threads") as members,
        pytest.raises(Exception, match="Got invalid dimensions"),
    ):
        Together(members, 1).turn(1)


def test_a_process_that_fails_says_why(tiny, tmp_path):
    np.save(tmp_path / "pool.npy", POOL[:, :, :8])
    with Process(tiny, "onnxruntime", threads=1, pool=tmp_path / "pool.npy") as child:
        child.prepare(1)
        with pytest.raises(StageError, match=r"tiny on onnxruntime in a separate process failed: .*invalid dim"):
            child.ready()


def test_a_process_that_dies_says_so(tiny, tmp_path):
    np.save(tmp_path / "pool.npy", POOL)
    with Process(tiny, "onnxruntime", threads=1, pool=tmp_path / "pool.npy") as child:
        child._child.kill()
        child.prepare(1)
        with pytest.raises(StageError, match=r"ended by signal 9 \(killed, perhaps for want of memory\)"):
            child.ready()


def test_memory_is_what_opening_and_running_add(tiny, tmp_path):
    np.save(tmp_path / "pool.npy", POOL)
    with Process(tiny, "onnxruntime", threads=1, pool=tmp_path / "pool.npy") as child:
        found = child.memory_mb([8, 1])
    assert list(found) == [1, 8]
    assert 0 < found[1][0] <= found[8][0] < 500
    assert found[1][1] is None  # no GPU is asked for a processor's backend
