"""Limits: a full disk, few open files, little memory, closed or narrow output, a folder that cannot be written."""

from __future__ import annotations

import os
import random
import resource
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from campaigns.world import Command, Finding, Outcome, World, commands

MB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit that a command runs under: what its process does before it starts, and its environment."""

    name: str
    before: Callable[[], None] = lambda: None
    environment: dict[str, str] = field(default_factory=dict)
    must_pass: bool = False


def _set(what: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (value, resource.getrlimit(what)[1]))


LIMITS = (
    *(Limit(name=f"files of at most {kb} kB", before=_set(resource.RLIMIT_FSIZE, kb * 1024)) for kb in (0, 4, 64, 512)),
    *(Limit(name=f"{count} open files", before=_set(resource.RLIMIT_NOFILE, count)) for count in (12, 24, 48)),
    *(Limit(name=f"{mb} MB of addresses", before=_set(resource.RLIMIT_AS, mb * MB)) for mb in (700, 1500)),
    Limit(name="closed stdout", before=lambda: os.close(1)),
    Limit(name="closed stderr", before=lambda: os.close(2)),
    Limit(name="closed stdin", before=lambda: os.close(0), must_pass=True),
    Limit(name="latin-1 output", environment={"PYTHONIOENCODING": "latin-1"}, must_pass=True),
    Limit(name="ASCII output", environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, must_pass=True),
    Limit(name="umask 077", before=lambda: (os.umask(0o077), None)[1], must_pass=True),
    Limit(name="no home", environment={"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent/cache"}),
    Limit(name="no TMPDIR", environment={"TMPDIR": "/nonexistent"}),
)


def trials(world: World, seed: int) -> Generator[Finding | None]:
    """Yield what each limit brought to light, None where the command passed or failed in words and lost nothing."""
    pairs = [(command, limit) for command in commands().values() for limit in LIMITS]
    random.Random(seed).shuffle(pairs)  # a short run sees some of each
    for command, limit in pairs:
        yield _trial(world, command, limit)


def _trial(world: World, command: Command, limit: Limit) -> Finding | None:
    place = world.root / "limited" / "out"
    place.parent.mkdir()
    before = world.state()
    usual = dict(world.environment)
    world.environment = {**usual, **limit.environment}
    try:
        process = world.run(command.words(place), preexec_fn=limit.before)
    finally:
        world.environment = usual
    kind, text = _problem(world, command, limit, place, process, before)
    shutil.rmtree(place.parent)
    trial = f"{command.name} with {limit.name}"
    return Finding(campaign="limits", trial=trial, kind=kind, text=text) if kind else None


def _problem(world: World, command: Command, limit: Limit, place: Path, done: Outcome, before: str) -> tuple[str, str]:
    if world.state() != before:
        return "lost", "what the command reads has changed"
    if done.hung:
        return "hang", "it does not end"
    # Where Python itself cannot start, or a library ends the process, no word of ours is possible.
    if done.unexpected and "MemoryError" not in done.err and limit.name[-9:] != "addresses":
        return "unexpected", f"{done.unexpected}: {done.err[-200:]}"
    if limit.must_pass and done.code:
        return "wrong", f"it ends with {done.code}: {done.err[-200:]}"
    if place.exists() and (wrong := command.check(place)):
        return "lost", f"half an output: {wrong}"
    if done.code == 0 and command.name != "run" and not place.exists():
        return "wrong", "it ends with 0 and made nothing"
    left = [file.name for file in place.parent.iterdir() if file.name.startswith(".")]
    return ("left", f"beside the output: {', '.join(left)}") if left else ("", "")
