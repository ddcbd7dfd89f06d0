"""Who does which step: the first that wrote it down, until it is done, given up, or its owner is gone.

An Optuna journal has no heartbeat, so each owner says in the study itself that it is alive. Whoever sees the same beat
for too long by its own clock takes the step over: the clocks of two machines need not agree. On one machine the system
says at once whether a process still runs.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tlopt.errors import StudyError
from tlopt.reading import files
from tlopt.search.study.backing import is_there, parted
from tlopt.search.study.storage import Entry, Storage

log = logging.getLogger(__name__)

BEAT_S = 10.0  # between two signs of life
STALE_S = 60.0  # without one: the owner is gone
_PROC = 4096  # bytes of a file of /proc: the system takes memory for as many as are asked for


@functools.cache
def _boot() -> str:
    """Return what tells this start of this machine from others: two containers may have the same name."""
    try:
        return files.read_text("/proc/sys/kernel/random/boot_id", limit=_PROC).strip()
    except OSError:
        return ""


def _started(process: int) -> str:
    """Return when a process began, in ticks since the start of the machine; empty if there is none.

    A number of a process is given again, but not with the same beginning.
    """
    try:
        fields = files.read_text(f"/proc/{process}/stat", limit=_PROC).rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _space() -> str:
    """Return the name space that numbers of processes are of."""
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def owner(role: str) -> dict[str, Any]:
    """Return who this process is, as JSON types."""
    process = os.getpid()
    return {
        "host": platform.node(),
        "boot": _boot(),
        "space": _space(),
        "process": process,
        "started": _started(process),
        "role": role,
    }


def is_gone(who: Mapping[str, Any]) -> bool:
    """Return whether an owner of this machine no longer runs; one of another machine may always be alive."""
    return _is_here(who) and _started(int(who["process"])) != who.get("started")


def _is_here(who: Mapping[str, Any]) -> bool:
    """Return whether the system can say if an owner still runs."""
    return bool(_boot()) and who.get("boot") == _boot() and who.get("space") == _space()


def refuse_live(
    where: str, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Refuse to begin a study anew that others work on.

    Args:
        where: The study, which may not be there yet.
        clock: Seconds that only go on; another one for tests.
        sleep: Waits for a sign of life from other machines; another one for tests.

    Raises:
        StudyError: They do, or the study is not tlopt's.
    """
    if not is_there(parted(where)[0]):
        return
    leases = Leases(storage=Storage(where, None), who={}, clock=clock)
    first: dict[int, int] = {}
    while held := leases.held(leases.storage.entries()):
        for one in held.values():
            if _is_here(one.owner) or one.beat != first.setdefault(one.number, one.beat):
                raise StudyError(
                    f"Process {one.owner['process']} of {one.owner['host']} works on the study {leases.storage.where}.",
                    hint="Wait until it ends, or name another one: --study FILE_OR_URL#NAME.",
                )
        sleep(BEAT_S / 4)


@dataclass
class Leases:
    """The steps that this process does, and those that others do.

    Args:
        storage: Where both are written down.
        who: This process.
        clock: Seconds that only go on; another one for tests.
    """

    storage: Storage
    who: Mapping[str, Any]
    clock: Callable[[], float] = time.monotonic
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)

    def held(self, entries: list[Entry]) -> dict[str, Entry]:
        """Return step -> the try that holds it: the first of those whose owners live."""
        found: dict[str, Entry] = {}
        for entry in entries:
            if entry.state == "held" and entry.key not in found and not self._is_stale(entry):
                found[entry.key] = entry
        return found

    def _is_stale(self, entry: Entry) -> bool:
        if _is_here(entry.owner):  # it may be busy for longer than it may be silent
            return is_gone(entry.owner)
        now = self.clock()
        beat, since = self._seen.get(entry.number, (-1, now))
        if beat != entry.beat:
            self._seen[entry.number] = (entry.beat, now)
            return False
        return now - since > STALE_S

    def claim(self, key: str, label: str = "", alone: Collection[str] = ()) -> int | None:
        """Claim a step: return the number of the try, None if it is done or another process does it.

        Args:
            key: The step.
            label: What a person calls it.
            alone: Kinds of steps of which one is done at a time, by all workers together.
        """
        entries = self.storage.entries()
        if not self._is_free(key, entries) or self._before(entries, alone):
            return None
        at = datetime.now(UTC).isoformat(timespec="seconds")
        number = self.storage.begin(key, {**self.who, "label": label, "at": at})
        entries = self.storage.entries()
        # Each writes first and looks then, so of two that claim at once both see who was first.
        first = self.held(entries).get(key)
        is_done = any(entry.key == key and entry.state == "done" for entry in entries)
        if first is None or first.number != number or is_done or self._before(entries, alone, number):
            self.storage.give_up(number)
            return None
        return number

    def _before(self, entries: list[Entry], kinds: Collection[str], number: float = math.inf) -> bool:
        """Return whether a step of some kinds was begun before a try, and is still being done."""
        held = self.held(entries) if kinds else {}
        return any(one.key.partition("/")[0] in kinds and one.number < number for one in held.values())

    def _is_free(self, key: str, entries: list[Entry]) -> bool:
        mine = [entry for entry in entries if entry.key == key]
        if any(entry.state == "done" for entry in mine) or key in self.held(mine):
            return False
        for entry in mine:
            if entry.state == "held":
                log.info("%s is taken over from process %s of %s", key, entry.owner["process"], entry.owner["host"])
                self.storage.give_up(entry.number)
        return True

    @contextlib.contextmanager
    def beating(self, number: int, told: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Say while the block runs that this process is alive; give the step up if the block raises.

        Args:
            number: Of the try.
            told: Called with each sign of life, and at the end; it may be called in another thread.
        """
        done = threading.Event()

        def beat() -> None:
            count = 0
            while not done.wait(BEAT_S):
                count += 1
                self.storage.beat(number, count)
                told()

        thread = threading.Thread(target=beat, daemon=True, name="sign of life")
        thread.start()
        try:
            try:
                yield
            finally:
                done.set()
                thread.join()
                told()
        except BaseException:
            self.storage.give_up(number)
            raise
