"""How OpenMP's threads wait for one another: they spin while this process is alone, and sleep beside other programs.

libgomp, the OpenMP runtime in the Linux packages of torch, reads once how long a waiting thread spins. But it spins
for 100 rounds instead of 300,000 while a process has more OpenMP threads than there are cores (GOMP_SPINCOUNT in the
manual of GNU libgomp). So beside other programs a thread of our own holds a team of sleeping threads. When the others
have gone it ends, and the team with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

SPIN_VARIABLE = "GOMP_SPINCOUNT"
# The user's own word on how threads wait, in any of these, is left alone.
CHOICES = (SPIN_VARIABLE, "OMP_WAIT_POLICY")
TASKS = Path("/proc/self/task")
MAPS = Path("/proc/self/maps")
_EVERY = 0.2  # seconds between two looks: one costs some 0.1 ms
_BUSY = 0.05  # cores for which our threads were ready and had to wait, from which on others need the cores
_CALM = 10  # looks without that before threads spin again

_lock = threading.Lock()
_watchers: list[threading.Event] = []  # one that is told to stop, while anybody is inside `sharing`
_inside = 0


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Within the block, let OpenMP's threads sleep while they wait as long as other programs need the cores."""
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1 and not chosen() and can_adapt():
            stop = threading.Event()
            _watchers.append(stop)
            threading.Thread(target=_watch, args=(stop,), name="tlopt-sharing", daemon=True).start()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            while not _inside and _watchers:
                _watchers.pop().set()


def chosen() -> bool:
    """Whether the user has said how threads wait."""
    return any(name in os.environ for name in CHOICES)


def can_adapt() -> bool:
    """Whether the kernel says for how long threads waited for a core."""
    return bool(waited())


def waited() -> Mapping[str, int]:
    """Return for each thread of this process how long it was ready and had no core, in ns; see proc(5), schedstat."""
    found = {}
    with contextlib.suppress(OSError):
        for task in os.listdir(TASKS):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[task] = int((TASKS / task / "schedstat").read_bytes().split()[1])
    return found


def _watch(stop: threading.Event) -> None:
    """Hold a crowd while threads of this process have to wait for cores."""
    crowd: Crowd | None = None
    calm, then, before = 0, time.perf_counter(), waited()
    while not stop.wait(_EVERY):
        now, after = time.perf_counter(), waited()
        lost = sum(after[task] - before[task] for task in after.keys() & before.keys()) / 1e9
        calm = 0 if lost > _BUSY * (now - then) else calm + 1
        if not calm and crowd is None:
            crowd = Crowd.gathered(libraries())
        elif calm >= _CALM and crowd is not None:
            crowd.dismissed()
            crowd = None
        then, before = now, after
    if crowd is not None:
        crowd.dismissed()


def libraries() -> tuple[str, ...]:
    """Return the files of each libgomp that this process has loaded."""
    try:
        lines = MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ()
    files = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}
    return tuple(sorted(file for file in files if os.path.basename(file).startswith("libgomp")))  # noqa: PTH119


class Crowd:
    """Sleeping OpenMP threads, more than there are cores.

    Args:
        files: Each libgomp that is to see them.
    """

    def __init__(self, files: tuple[str, ...]) -> None:
        self._leave, self._there = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._stand, args=(files,), name="tlopt-crowd", daemon=True)

    @classmethod
    def gathered(cls, files: tuple[str, ...]) -> Crowd | None:
        """Return a crowd that stands there; None if no libgomp is loaded."""
        if not files:
            return None
        crowd = cls(files)
        crowd._thread.start()
        crowd._there.wait()
        return crowd

    def dismissed(self) -> None:
        """Let it end."""
        self._leave.set()
        self._thread.join()

    def _stand(self, files: tuple[str, ...]) -> None:
        # A team lives as long as the thread that started it. What it does is free(NULL), which is nothing.
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        number = len(os.sched_getaffinity(0)) + 1
        try:
            for file in files:
                parallel = ctypes.CDLL(file).GOMP_parallel
                parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
                parallel.restype = None
                parallel(nothing, None, number, 0)
        except (OSError, AttributeError):
            log.debug("OpenMP's threads go on spinning beside other programs", exc_info=True)
        finally:
            self._there.set()
        self._leave.wait()
