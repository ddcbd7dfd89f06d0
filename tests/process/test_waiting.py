import subprocess
import sys
import threading

import pytest

from tlopt.process import waiting


@pytest.fixture
def lost(monkeypatch):
    """Say how long the threads wait for a core: in seconds at each look."""
    looks = []
    total = [0]

    def waited():
        total[0] += int(1e9 * looks.pop(0)) if looks else 0
        return {"1": total[0]}

    monkeypatch.setattr(waiting, "waited", waited)
    monkeypatch.setattr(waiting, "_EVERY", 0)
    return looks


class Crowd:
    def __init__(self):
        self.stands = True

    def dismissed(self):
        self.stands = False


class Crowds(list):
    def gathered(self, _):
        self.append(Crowd())
        return self[-1]


class Looks(threading.Event):
    """Never waits, and says stop after some looks."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def wait(self, _):
        self.left -= 1
        return self.left < 0


@pytest.fixture
def crowds(monkeypatch):
    made = Crowds()
    monkeypatch.setattr(waiting, "Crowd", made)
    return made


def test_threads_that_wait_for_a_core_gather_a_crowd_and_it_ends_with_the_block(lost, crowds):
    lost.extend([0, 1000, 1000, 1000])
    waiting._watch(Looks(3))
    (crowd,) = crowds
    assert not crowd.stands


def test_a_crowd_is_dismissed_when_nobody_has_waited_for_a_while_and_comes_again(lost, crowds):
    lost.extend([0, 1000, *[0] * waiting._CALM, 1000])
    waiting._watch(Looks(2 + waiting._CALM))
    assert len(crowds) == 2


def test_alone_there_is_no_crowd(lost, crowds):
    waiting._watch(Looks(50))
    assert crowds == []


def test_each_thread_says_how_long_it_waited():
    found = waiting.waited()
    if not found:
        pytest.skip("this kernel does not say how long threads wait for a core")
    assert str(threading.get_native_id()) in found
    assert all(value >= 0 for value in found.values())


@pytest.mark.parametrize("name", waiting.CHOICES)
def test_who_says_how_threads_wait_is_obeyed(name, monkeypatch):
    monkeypatch.setenv(name, "1000")
    with waiting.sharing():
        assert "tlopt-sharing" not in {thread.name for thread in threading.enumerate()}


def test_where_the_kernel_says_nothing_nobody_watches(monkeypatch, tmp_path):
    for name in waiting.CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(waiting, "TASKS", tmp_path / "none")
    assert not waiting.can_adapt()
    with waiting.sharing():
        assert "tlopt-sharing" not in {thread.name for thread in threading.enumerate()}


def test_one_watcher_serves_blocks_within_blocks(monkeypatch):
    for name in waiting.CHOICES:
        monkeypatch.delenv(name, raising=False)
    if not waiting.can_adapt():
        pytest.skip("this kernel does not say how long threads wait for a core")
    with waiting.sharing():
        (watcher,) = [thread for thread in threading.enumerate() if thread.name == "tlopt-sharing"]
        with waiting.sharing():
            assert sum(thread.name == "tlopt-sharing" for thread in threading.enumerate()) == 1
        assert watcher.is_alive()
    watcher.join(timeout=60)
    assert not watcher.is_alive()


@pytest.mark.slow
def test_a_crowd_is_more_openmp_threads_than_cores_and_leaves_none_behind():
    code = """
import os, time, torch
from tlopt.process import waiting
def threads(): return len(os.listdir("/proc/self/task"))
files = waiting.libraries()
before = threads()
crowd = waiting.Crowd.gathered(files)
print(bool(files), threads() - before - 1 - len(os.sched_getaffinity(0)) * len(files))
crowd.dismissed()
while threads() > before:  # each ends by itself
    time.sleep(0.01)
print(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, more, left = done.stdout.split()
    if found == "False":
        pytest.skip("this torch does not use libgomp")
    assert (more, left) == ("0", "0")
