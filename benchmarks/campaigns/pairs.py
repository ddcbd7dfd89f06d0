"""Two runs at once: the same command with one output, started at nearly the same moment."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Generator

from campaigns.world import PATIENCE, Command, Finding, World, commands


def trials(world: World, count: int, seed: int) -> Generator[Finding | None]:
    """Yield what each pair brought to light, None where one run won and the other refused in words."""
    chance = random.Random(seed)
    known = list(commands().values())
    for number in range(count):
        yield _trial(world, known[number % len(known)], chance.choice((0.0, 0.05, 0.5, 1.5)))


def _trial(world: World, command: Command, apart: float) -> Finding | None:
    place = world.root / "paired" / "out"
    place.parent.mkdir()
    before = world.state()
    first = world.start(command.words(place))
    time.sleep(apart)
    second = world.start(command.words(place))
    ended = [process.communicate(timeout=PATIENCE) for process in (first, second)]
    codes = sorted((first.returncode, second.returncode))
    errors = " ".join(err.decode("utf-8", "replace") for _, err in ended)
    kind, text = "", ""
    if world.state() != before:
        kind, text = "lost", "what the commands read has changed"
    elif "Traceback" in errors or "Unexpected failure" in errors:
        kind, text = "unexpected", errors[-300:]
    elif command.replaces and codes != [0, 2]:
        # Both ending well means that one result is gone; a command that adds to its output may do so twice.
        kind, text = "lost" if codes == [0, 0] else "wrong", f"exit codes {codes}: {errors[-300:]}"
    elif codes[0] != 0:
        kind, text = "wrong", f"exit codes {codes}: {errors[-300:]}"
    elif command.name != "run" and (wrong := command.check(place)):
        kind, text = "lost", wrong
    shutil.rmtree(place.parent)
    what = f"two runs of {command.name}, {apart} s apart"
    return Finding(campaign="pairs", trial=what, kind=kind, text=text) if kind else None
