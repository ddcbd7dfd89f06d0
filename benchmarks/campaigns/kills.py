"""Kills: every command is ended by SIGKILL at random moments; then the same command must go through."""

from __future__ import annotations

import random
import shutil
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from campaigns.world import Command, Finding, Outcome, World, commands


def trials(world: World, count: int, seed: int) -> Generator[Finding | None]:
    """Yield what each kill brought to light, None where all went well.

    Each trial starts a command, kills it at a moment drawn from its own duration, and looks at what stands. The
    output must be absent, whole, or the one that was there before. What was read must be unchanged. The same
    command must then end well, and leave nothing beside its output.
    """
    chance = random.Random(seed)
    seconds: dict[str, float] = {}
    known = list(commands().values())
    moments = [chance.uniform(0, 1.05) for _ in range(count)]

    def trial(number: int) -> Finding | None:
        command = known[number % len(known)]
        if command.name not in seconds:
            seconds[command.name] = _once(world, command, number)
        return _trial(world, command, seconds[command.name] * moments[number], number)

    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        yield from pool.map(trial, range(count))
    finally:
        pool.shutdown(cancel_futures=True)


_AT_ONCE = 2


def _once(world: World, command: Command, number: int) -> float:
    """Return how long the command takes when it is left alone."""
    place = _place(world, number)
    done = world.run(command.words(place))
    if done.code:
        raise SystemExit(f"tlopt {command.name} fails undisturbed:\n{done.err}")
    _clear(place)
    return done.seconds


def _trial(world: World, command: Command, moment: float, number: int) -> Finding | None:
    place = _place(world, number)
    force = command.replaces and number % 2 == 1
    what = f"{command.name}{' --force' * force} killed after {moment:.2f} s"
    before = world.state()
    if force:
        world.run(command.words(place))
    words = [*command.words(place), *(["--force"] if force else [])]
    world.run(words, kill_after=moment)
    problem = _after(world, command, words, place, before, force=force)
    _clear(place)
    return None if problem is None else Finding(campaign="kills", trial=what, kind=problem[0], text=problem[1])


def _after(
    world: World, command: Command, words: list[str], place: Path, before: str, *, force: bool
) -> tuple[str, str] | None:
    """Return what is wrong after a kill: its kind and a sentence."""
    if world.state() != before:
        return "lost", "what the command reads has changed"
    stood = place.exists()
    if force and not stood:
        # The old output may be set aside for a moment; the next run must bring it back or replace it.
        pass
    elif (stood or command.name == "run") and (wrong := command.check(place)):
        return "lost", f"the output is neither the old one nor the new one: {wrong}"
    again = world.run([*words, *(["--force"] if command.replaces and not force and stood else [])])
    if again.hung:
        return "hang", "the second run does not end"
    if again.unexpected:
        return "unexpected", again.unexpected
    if again.code:
        return "wrong", f"the second run ends with {again.code}: {_first(again)}"
    if wrong := command.check(place):
        return "wrong", f"after the second run: {wrong}"
    left = sorted(file.name for file in place.parent.iterdir() if file.name.startswith("."))
    return ("left", f"beside the output: {', '.join(left)}") if left else None


def _first(outcome: Outcome) -> str:
    return next((line for line in outcome.err.splitlines() if line.startswith("Error")), outcome.err[-300:])


def _place(world: World, number: int) -> Path:
    folder = world.root / "outputs" / f"{number}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "out"


def _clear(place: Path) -> None:
    shutil.rmtree(place.parent, ignore_errors=True)
