"""The small world that the campaigns disturb: images, a network, artifacts, and the commands on them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tlopt.artifact import Artifact
from tlopt.cards.card import CARD_NAME

MODEL = "timm:test_resnet"
COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
PATIENCE = 120.0  # seconds after which a command counts as hung; each takes a few


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One trial that did not go as it must.

    Args:
        campaign: Which campaign it was found by.
        trial: What was done, so that it can be done again.
        kind: "lost", "unexpected", "hang", "wrong" or "left".
        text: What was seen.
    """

    campaign: str
    trial: str
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended: its exit code (negative for a signal), what it printed, and its seconds."""

    code: int
    out: str
    err: str
    seconds: float
    hung: bool = False

    @property
    def unexpected(self) -> str:
        """What must never be seen: a traceback, an unexpected failure, or an exit code that is not documented."""
        for sign in ("Traceback (most recent call last)", "Unexpected failure"):
            if sign in self.err:
                return next(line for line in self.err.splitlines() if sign in line)
        return f"exit code {self.code}" if self.code not in (0, 1, 2, 3, 130) else ""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the campaigns.

    Args:
        name: Its name in the results.
        words: The words after ``tlopt``, given the output.
        check: Says what is wrong with an output that stands; empty if it is whole.
        replaces: Whether it takes ``--force``.
        reads: What it reads, relative to the world.
    """

    name: str
    words: Callable[[Path], list[str]]
    check: Callable[[Path], str]
    replaces: bool = True
    reads: tuple[str, ...] = ()


@dataclass(kw_only=True)
class World:
    """A folder with everything that the commands read."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, words: Sequence[str], *, kill_after: float | None = None, **options: object) -> Outcome:
        """Run ``tlopt`` with these words in the world; kill it, and all that it started, after some seconds."""
        started = time.perf_counter()
        process = self.start(words, **options)
        hung = False
        try:
            out, err = process.communicate(timeout=PATIENCE if kill_after is None else kill_after)
        except subprocess.TimeoutExpired:
            hung = kill_after is None
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        return Outcome(
            code=process.returncode, out=_text(out), err=_text(err), seconds=time.perf_counter() - started, hung=hung
        )

    def start(self, words: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """Start ``tlopt`` with these words, as the leader of a process group of its own."""
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-P", "-m", "tlopt", *words],
            cwd=self.root,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,  # type: ignore[call-overload]
        )
        return process

    def copy(self, root: Path) -> World:
        """Return the same world in another folder."""
        shutil.copytree(self.root, root)
        return World(root=root, environment=self.environment)

    def state(self, *names: str) -> str:
        """Return the digest of everything below some of the world's files and folders."""
        digest = hashlib.sha256()
        for name in names or ("images", "tuned", "fp32", "engine", "weights.safetensors", "net.onnx", "classes.txt"):
            place = self.root / name
            for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                if file.is_file():
                    digest.update(str(file.relative_to(self.root)).encode() + file.read_bytes())
        return digest.hexdigest()


def make(root: Path) -> World:
    """Make the world: a minute's work of the commands themselves."""
    random = np.random.default_rng(0)
    for name, color in COLORS.items():
        (root / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.clip(np.array(color) + random.normal(0, 40, (40, 36, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"{i}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in COLORS), encoding="utf-8")
    (root / "cache").mkdir()
    (root / "config").mkdir()
    world = World(
        root=root,
        environment={
            "XDG_CACHE_HOME": str(root / "cache"),
            "XDG_CONFIG_HOME": str(root / "config"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
        },
    )
    _weights(root / "weights.safetensors")
    (root / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    finetune = commands()["finetune"]
    for words in (
        finetune.words(Path("tuned")),
        ["export", "tuned", "-o", "fp32"],
        ["quantize", "fp32", "-o", "int8", "--samples", "8"],
        ["build", "fp32", "-o", "engine", "--target", "sm89"],
    ):
        done = world.run(words)
        if done.code:
            raise SystemExit(f"The world cannot be made: tlopt {' '.join(words)}\n{done.err}")
    (root / "net.onnx").write_bytes(Artifact.load(root / "fp32").payload(".onnx").read_bytes())
    return world


RECIPE = """out = "chain"

[fp32]
export = "tuned"

[int8]
quantize = "fp32"
samples = 8
"""


def _weights(file: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from tlopt.sources import timm

    torch.manual_seed(0)
    save_file(timm.build(MODEL.partition(":")[2], classes=1000).state_dict(), file)


def commands() -> dict[str, Command]:
    """Return the commands that write something, by name."""
    training = ["--image-size", "32", "--epochs", "1", "--batch", "8"]
    pretrained = ["--model", MODEL, "--weights", "weights.safetensors"]

    def to(*words: str) -> Callable[[Path], list[str]]:
        return lambda out: [*words, "-o", str(out)]

    def listed(option: str, *words: str) -> Callable[[Path], list[str]]:
        return lambda out: [*words, option, str(out)]

    found = [
        Command(name="finetune", words=to("finetune", "images", *pretrained, *training), check=artifact),
        Command(name="prune", words=to("prune", "tuned", "--epochs", "1", "--batch", "8"), check=artifact),
        Command(name="export", words=to("export", "tuned"), check=artifact),
        Command(
            name="import", words=to("import", "net.onnx", "--classes", "classes.txt", "--image-size", "32"),
            check=artifact,
        ),
        Command(name="quantize", words=to("quantize", "fp32", "--samples", "8"), check=artifact),
        Command(name="build", words=to("build", "fp32", "--target", "sm89"), check=artifact),
        Command(
            name="report", words=to("report", "fp32", "int8", "--seconds", "0.02", "--batch", "1"),
            check=report, replaces=True,
        ),
        Command(name="run", words=_recipe, check=recipe, replaces=False),
        Command(name="data merge", words=to("data", "merge", "images"), check=table, replaces=True),
        Command(
            name="bench --csv", words=listed("--csv", "bench", "fp32", "--seconds", "0.02", "--batch", "1"),
            check=csv, replaces=False,
        ),
    ]  # fmt: skip
    return {command.name: command for command in found}


def _recipe(out: Path) -> list[str]:
    """Write a recipe whose steps go into a folder beside the output, and return the words that run it."""
    file = out.parent / "recipe.toml"
    file.write_text(RECIPE.replace('"chain"', f'"{out.parent}/chain"'), encoding="utf-8")
    return ["run", str(file)]


def artifact(place: Path) -> str:
    """Return what is wrong with an artifact."""
    try:
        Artifact.load(place)
    except Exception as error:  # noqa: BLE001 - whatever is wrong is the finding
        return f"{type(error).__name__}: {error}"
    return ""


def report(place: Path) -> str:
    """Return what is wrong with a report; one of its two files may be missing after a kill."""
    try:
        if (place / "report.json").exists():
            json.loads((place / "report.json").read_text(encoding="utf-8"))
        if (place / "report.html").exists() and "</html>" not in (place / "report.html").read_text(encoding="utf-8"):
            return "report.html is half-written"
    except ValueError as error:
        return f"report.json: {error}"
    return ""


def recipe(place: Path) -> str:
    """Return what is wrong with the steps of the recipe that stand."""
    out = place.parent / "chain"
    cards = [folder for folder in out.glob("*") if not folder.name.startswith(".") and (folder / CARD_NAME).exists()]
    return "; ".join(filter(None, map(artifact, cards)))


def table(place: Path) -> str:
    """Return what is wrong with a set of images that a command made."""
    from tlopt.images import scan

    try:
        return "" if len(scan(place)) == 10 * len(COLORS) else "images are missing"
    except Exception as error:  # noqa: BLE001 - whatever is wrong is the finding
        return f"{type(error).__name__}: {error}"


def csv(place: Path) -> str:
    """Return what is wrong with a table of results."""
    text = place.read_text(encoding="utf-8")
    lines = text.splitlines()
    return "" if len(lines) >= 2 and text.endswith("\n") else f"{len(lines)} lines"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
