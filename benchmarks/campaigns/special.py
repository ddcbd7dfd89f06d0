"""Special files: a pipe, a device, a socket, a folder, a dangling link in the place of every file that is read."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable, Generator
from pathlib import Path

from campaigns.world import Finding, World


def _socket(place: Path) -> None:
    # The path of a socket may have 107 bytes: it is made from inside its folder.
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{place.name}")
    finally:
        os.close(folder)


KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "endless": lambda place: place.symlink_to("/dev/zero"),
    "empty device": lambda place: place.symlink_to("/dev/null"),
    "socket": _socket,
    "folder": Path.mkdir,
    "dangling link": lambda place: place.symlink_to("nowhere"),
    "loop of links": lambda place: place.symlink_to(place.name),
    "empty file": Path.touch,
}

# What is replaced -> the commands that read it. A trial works on copies.
ROLES: dict[str, tuple[list[str], ...]] = {
    "images/red/0.png": (
        ["predict", "fp32", "images"],
        ["evaluate", "fp32", "--images", "images"],
        ["data", "audit", "images"],
        ["data", "split", "images", "-o", "made"],
        ["quantize", "fp32", "-o", "made", "--images", "images", "--samples", "8"],
    ),
    "fp32/artifact.json": (["show", "fp32"], ["predict", "fp32", "images"], ["bench", "fp32", "--seconds", "0.02"]),
    "fp32/model.onnx": (["show", "fp32"], ["predict", "fp32", "images"], ["quantize", "fp32", "-o", "made"]),
    "tuned/model.safetensors": (["predict", "tuned", "images"], ["export", "tuned", "-o", "made"]),
    "engine/model.engine": (["show", "engine"],),
    "recipe.toml": (["run", "recipe.toml", "--dry-run"],),
    "classes.txt": (["import", "net.onnx", "-o", "made", "--classes", "classes.txt", "--image-size", "32"],),
    "net.onnx": (["import", "net.onnx", "-o", "made", "--classes", "classes.txt", "--image-size", "32"],),
    "table.csv": (["data", "audit", "table.csv"], ["evaluate", "fp32", "--images", "table.csv"]),
    "base.json": (["bench", "fp32", "--seconds", "0.02", "--batch", "1", "--baseline", "base.json"],),
    "weights.safetensors": (
        ["finetune", "images", "-o", "made", "--model", "timm:test_resnet", "--weights", "weights.safetensors",
         "--image-size", "32", "--epochs", "1"],
    ),
}  # fmt: skip


def trials(world: World, seed: int) -> Generator[Finding | None]:
    """Yield what each special file brought to light, None where the command ended by itself and in words."""
    todo = [(role, name, words) for role, found in ROLES.items() for name in KINDS for words in found]
    random.Random(seed).shuffle(todo)  # a short run sees some of each
    for role, name, words in todo:
        yield _trial(world, role, name, KINDS[name], words)


def _trial(world: World, role: str, name: str, make: Callable[[Path], None], words: list[str]) -> Finding | None:
    place = world.root / role
    aside = place.with_name(f"aside-{place.name}")
    existed = place.exists()
    if existed:
        place.rename(aside)
    try:
        make(place)
        done = world.run(words)
    finally:
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink(missing_ok=True)
        if existed:
            aside.rename(place)
        shutil.rmtree(world.root / "made", ignore_errors=True)
    what = f"{role} is a {name}: tlopt {' '.join(words)}"
    if done.hung:
        return Finding(campaign="special", trial=what, kind="hang", text="it does not end")
    if done.unexpected:
        return Finding(campaign="special", trial=what, kind="unexpected", text=done.unexpected)
    return None
