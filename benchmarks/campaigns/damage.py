"""Damaged files: seeded mutations of every kind of file that is read, each given to the commands that read it.

The commands run in worker processes that stay warm. A worker that hangs, or dies by a signal, is a finding and
is replaced.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import queue
import random
import shutil
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import mutations
import onnx

from campaigns.world import Finding, World
from tlopt.artifact import sha256
from tlopt.cards.card import CARD_NAME

HANG = 180.0  # seconds; the commands take about one, quantize a few


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of file that is damaged.

    Args:
        file: Which, relative to a trial's folder.
        mutate: Returns its damaged content.
        commands: Those that read it; one is drawn.
        sealed: Whether the card beside it takes the digest of the damaged file, as an attacker would see to.
    """

    file: str
    mutate: Callable[[bytes, int], bytes]
    commands: tuple[tuple[str, ...], ...]
    sealed: bool = False


def _json(content: bytes, seed: int) -> bytes:
    return mutations.damaged_json(content.decode(), seed)[1].encode("utf-8", "surrogatepass")


def _toml(content: bytes, seed: int) -> bytes:
    return mutations.damaged_toml(content.decode(), seed)[1].encode("utf-8", "surrogatepass")


def _bytes(content: bytes, seed: int) -> bytes:
    return mutations.damaged_bytes(content, seed)[1]


def _onnx(content: bytes, seed: int) -> bytes:
    """Damage the bytes of an ONNX file, or, mostly, its graph: the file is then well-formed and wrong."""
    choice = random.Random(seed)
    if choice.random() < 0.3:
        return _bytes(content, seed)
    model = onnx.load_from_string(content)
    choice.choice(_GRAPH)(model, choice)
    made: bytes = model.SerializeToString()
    return made


def _drop_node(model: onnx.ModelProto, choice: random.Random) -> None:
    del model.graph.node[choice.randrange(len(model.graph.node))]


def _other_kind(model: onnx.ModelProto, choice: random.Random) -> None:
    kinds = ("Relu", "Conv", "Loop", "Nonsense", "Softmax", "Reshape", "NonZero", "MatMul", "DequantizeLinear")
    choice.choice(model.graph.node).op_type = choice.choice(kinds)


def _other_wire(model: onnx.ModelProto, choice: random.Random) -> None:
    node = choice.choice([node for node in model.graph.node if node.input])
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    node.input[choice.randrange(len(node.input))] = choice.choice([*names, "", "nowhere"])


def _other_attribute(model: onnx.ModelProto, choice: random.Random) -> None:
    node = choice.choice([node for node in model.graph.node if node.attribute])
    attribute = choice.choice(node.attribute)
    attribute.i = choice.choice((-1, 0, 7, 2**40))
    if attribute.ints:
        attribute.ints[choice.randrange(len(attribute.ints))] = choice.choice((-1, 0, 7, 2**40))


def _other_weight(model: onnx.ModelProto, choice: random.Random) -> None:
    tensor = choice.choice(model.graph.initializer)
    change = choice.randrange(4)
    if change == 0 and tensor.dims:
        tensor.dims[choice.randrange(len(tensor.dims))] = choice.choice((0, 1, 3, 2**33))
    elif change == 1:
        tensor.data_type = choice.randrange(0, 24)
    elif change == 2:
        tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
    else:
        tensor.raw_data = b"\xff" * len(tensor.raw_data)


def _other_interface(model: onnx.ModelProto, choice: random.Random) -> None:
    value = choice.choice([*model.graph.input, *model.graph.output])
    dims = value.type.tensor_type.shape.dim
    change = choice.randrange(4)
    if change == 0 and dims:
        dims[choice.randrange(len(dims))].dim_value = choice.choice((0, 1, 3, 5, 2**33))
    elif change == 1:
        value.type.tensor_type.elem_type = choice.randrange(0, 24)
    elif change == 2:
        value.name = choice.choice(("", "logits", "images", "x" * 300, "a\nb"))
    else:
        del model.graph.output[:]


def _other_version(model: onnx.ModelProto, choice: random.Random) -> None:
    if choice.random() < 0.5:
        model.ir_version = choice.choice((0, 1, 3, 99))
    else:
        model.opset_import[0].version = choice.choice((0, 1, 7, 99))


_GRAPH = (_drop_node, _other_kind, _other_wire, _other_attribute, _other_weight, _other_interface, _other_version)

_QUICK = ("--backend", "onnxruntime", "--seconds", "0.01", "--batch", "1", "--no-memory")

# Commands that take seconds are drawn seldom.
_ONNX = (
    *(
        ("show", "fp32"),
        ("predict", "fp32", "images/red"),
        ("evaluate", "fp32", "--images", "images"),
        ("drift", "fp32", "fp32", "--images", "images"),
    )
    * 15,
    ("quantize", "fp32", "-o", "made", "--samples", "8", "--images", "images"),
)
_TORCH = (*(("show", "tuned"), ("predict", "tuned", "images/red")) * 20, ("export", "tuned", "-o", "made"))
_IMPORT = (("import", "net.onnx", "-o", "made", "--classes", "classes.txt", "--image-size", "32"),)
_TABLE = (*(("evaluate", "fp32", "--images", "table.csv"),) * 20, ("data", "audit", "table.csv"))
_IMAGE = (
    *(("predict", "fp32", "images/red"), ("evaluate", "fp32", "--images", "images")) * 10,
    ("data", "audit", "images"),
)

TARGETS = {
    "card of an ONNX artifact": Target(file="fp32/artifact.json", mutate=_json, commands=_ONNX),
    "card of a torch artifact": Target(
        file="tuned/artifact.json",
        mutate=_json,
        commands=_TORCH,
    ),
    "card of an engine": Target(
        file="engine/artifact.json", mutate=_json, commands=(("show", "engine"), ("predict", "engine", "images/red"))
    ),
    "recipe": Target(file="recipe.toml", mutate=_toml, commands=(("run", "recipe.toml", "--dry-run"),)),
    "state of a recipe": Target(
        file="chain/.steps.json", mutate=_json, commands=(("run", "recipe.toml", "--dry-run"),)
    ),
    "graph": Target(file="fp32/model.onnx", mutate=_onnx, commands=_ONNX, sealed=True),
    "imported graph": Target(file="net.onnx", mutate=_onnx, commands=_IMPORT),
    "weights": Target(
        file="tuned/model.safetensors",
        mutate=_bytes,
        commands=(("predict", "tuned", "images/red"),),
        sealed=True,
    ),
    "class names": Target(file="classes.txt", mutate=_bytes, commands=_IMPORT),
    "table of images": Target(file="table.csv", mutate=_bytes, commands=_TABLE),
    "image": Target(
        file="images/red/0.png",
        mutate=_bytes,
        commands=_IMAGE,
    ),
    "baseline": Target(
        file="base.json",
        mutate=_json,
        commands=(("bench", "fp32", *_QUICK, "--baseline", "base.json"),),
    ),
}  # fmt: skip


def trials(world: World, count: int, seed: int) -> Generator[Finding | None]:
    """Yield what each damaged file brought to light, None where the command ended in words."""
    _complete(world)
    chance = random.Random(seed)
    names = list(TARGETS)
    seeds = [chance.getrandbits(32) for _ in range(count)]
    # Each of several threads damages a world of its own.
    others = [world.copy(world.root.parent / f"{world.root.name}-{number}") for number in range(1, _AT_ONCE)]
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for one in (world, *others):
        free.put(_Worker(one))

    def trial(number: int) -> Finding | None:
        worker = free.get()
        try:
            return _trial(worker.world, worker, names[number % len(names)], seeds[number])
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        yield from pool.map(trial, range(count))
    finally:
        pool.shutdown(cancel_futures=True)
        for one in others:
            shutil.rmtree(one.root)
        while not free.empty():
            free.get().end()


_AT_ONCE = 2


def _complete(world: World) -> None:
    """Make what only this campaign damages: a table of images, the state of a recipe, a baseline."""
    files = sorted((world.root / "images").glob("*/*"))
    rows = "".join(f"images/{file.parent.name}/{file.name},{file.parent.name}\n" for file in files)
    (world.root / "table.csv").write_text("path,label\n" + rows, encoding="utf-8")
    for words in (["run", "recipe.toml"], ["bench", "fp32", *_QUICK, "--json"]):
        done = world.run(words)
        if done.code:
            raise SystemExit(f"tlopt {' '.join(words)} fails undisturbed:\n{done.err}")
    (world.root / "base.json").write_text(done.out, encoding="utf-8")


def _trial(world: World, worker: _Worker, name: str, seed: int) -> Finding | None:
    target, chance = TARGETS[name], random.Random(seed)
    place = world.root / target.file
    whole, card = place.read_bytes(), place.parent / CARD_NAME
    words = chance.choice(target.commands)
    sealed = card.read_bytes() if target.sealed else b""
    place.write_bytes(target.mutate(whole, seed))
    if target.sealed:
        told = json.loads(sealed)
        told["files"][place.name] = sha256(place)
        card.write_text(json.dumps(told), encoding="utf-8")
    try:
        kind, text = worker.run(words)
        if not kind and (world.root / "made" / CARD_NAME).exists() and name.startswith("imported"):
            kind, text = worker.run(("predict", "made", "images/red"))
    finally:
        place.write_bytes(whole)
        if target.sealed:
            card.write_bytes(sealed)
        shutil.rmtree(world.root / "made", ignore_errors=True)
    what = f"{name}, seed {seed}: tlopt {' '.join(words)}"
    return Finding(campaign="mutations", trial=what, kind=kind, text=text) if kind else None


class _Worker:
    """A process that runs command lines one after the other; started anew when it hangs or dies."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._start()

    def run(self, words: tuple[str, ...]) -> tuple[str, str]:
        """Run a command line; return the kind of what was wrong and what was seen, or two empty strings."""
        self._pipe.send(words)
        if not self._pipe.poll(HANG):
            self.end()
            self._start()
            return "hang", f"no end within {HANG:g} s"
        try:
            code, err = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            signal = self._process.exitcode
            self._start()
            return "unexpected", f"the process died: exit code {signal}"
        if "Unexpected failure" in err or "Traceback" in err or code not in (0, 1, 2, 3):
            return "unexpected", f"exit code {code}: {err[-300:].strip()}"
        return "", ""

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, str(self.world.root), dict(self.world.environment)))
        self._process.start()
        other.close()


def _serve(pipe: Connection, root: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.chdir(root)
    sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - for the life of the process
    from tlopt.cli import main

    while True:
        try:
            words = pipe.recv()
        except EOFError:
            return
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(list(words))
            except SystemExit as end:
                code = end.code
            except BaseException as error:  # noqa: BLE001 - whatever passes the last boundary is the finding
                code, told = -1, f"Traceback: {type(error).__name__}: {error}"
                err.write(told)
        pipe.send((code, err.getvalue()))
