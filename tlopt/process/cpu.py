"""How many processor cores this process may use, and how its threads wait for one another."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tlopt.process.waiting import CHOICES, SPIN_VARIABLE, can_adapt, chosen

MOST_THREADS = 1024  # that anybody asks for and means it: runtimes do begin to start a hundred thousand
ROOT = Path("/")  # of the file system that is asked

# Rounds for which waiting threads of libgomp, the OpenMP runtime in the Linux packages of torch, may spin where it
# cannot be seen whether others need the cores. docs/results.md has the measurements that it follows from.
SPINS = "1000"
_LONG = 10 * int(SPINS)  # rounds from which on it is felt


def share_cores() -> None:
    """Let OpenMP's threads be no more than the cores there are, and give them away where nobody watches.

    To be called before torch is imported; processes started from this one inherit it. What the user
    has set stays. Where the kernel tells who waits for a core, `waiting.sharing` does better than a fixed number.
    """
    if "torch" in sys.modules:
        return
    limited = cores() < affinity()
    if (limited or not can_adapt()) and not chosen():
        os.environ[SPIN_VARIABLE] = SPINS  # within a quota a thread that spins uses up what the others need
    if limited:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def waiting() -> str:
    """Return how OpenMP's threads wait in this process, as the conditions of a result say it."""
    if chosen():
        return " ".join(f"{name}={os.environ[name]}" for name in CHOICES if name in os.environ)
    return "spins alone, sleeps beside other programs" if can_adapt() else "OpenMP's default"


def spins() -> bool:
    """Whether OpenMP's threads spin for long beside other programs."""
    if not chosen():
        return not can_adapt()
    if (own := os.environ.get(SPIN_VARIABLE)) is not None:
        return not own.isdecimal() or int(own) > _LONG
    return os.environ.get("OMP_WAIT_POLICY", "passive").lower() == "active"


def mend() -> str:
    """Return what to do about threads that spin beside other programs."""
    return f"unset {' '.join(CHOICES)}" if chosen() else "import tlopt before torch"


def cores() -> int:
    """Return the number of processor cores that this process may use: its affinity, or a smaller quota.

    A container's quota of 1.5 cores counts as two: one thread would leave a third of it unused.
    """
    return min([affinity(), *_whole_quotas()])


@functools.cache
def _whole_quotas() -> tuple[int, ...]:
    return tuple(max(1, math.ceil(quota - 1e-6)) for quota in quotas())


def quotas() -> Iterator[float]:
    """Yield the quota of each control group that this process is in, in cores; see cgroups(7)."""
    mounts = dict(_mounts())
    try:
        lines = (ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        kind = "cgroup2" if not controllers else "cpu" if "cpu" in controllers.split(",") else ""
        if kind not in mounts:
            continue
        root, folder = mounts[kind]
        read = _quota_of_version_2 if kind == "cgroup2" else _quota_of_version_1
        # In a container, the group's path may start above what is mounted.
        inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else ""
        place = folder / inside.strip("/")
        while True:
            quota = read(place)
            if quota is not None:
                yield quota
            if place == folder:
                break
            place = place.parent


def _mounts() -> Iterator[tuple[str, tuple[str, Path]]]:
    """Yield where the control groups are: "cgroup2" or "cpu", then the group that is mounted, and its folder."""
    try:
        lines = (ROOT / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        place = fields[3], ROOT / fields[4].lstrip("/")
        if kind[0] == "cgroup2":
            yield "cgroup2", place
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield "cpu", place


def _quota_of_version_2(place: Path) -> float | None:
    return _share(_words(place / "cpu.max"))  # "max 100000" is no quota


def _quota_of_version_1(place: Path) -> float | None:
    return _share([*_words(place / "cpu.cfs_quota_us"), *_words(place / "cpu.cfs_period_us")])  # -1 is no quota


def _share(words: list[str]) -> float | None:
    if len(words) != 2 or not all(word.isdecimal() and int(word) > 0 for word in words):
        return None
    return int(words[0]) / int(words[1])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def affinity() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
