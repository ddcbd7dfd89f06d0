"""A library that opens its own format does so in a process of its own, which writes ONNX and what it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tlopt.errors import ArtifactError, MissingLibraryError
from tlopt.graphs.cleaning import clean
from tlopt.graphs.rewriting.folding import fold
from tlopt.graphs.rewriting.pads import merge_pads
from tlopt.graphs.rewriting.transposes import cancel_transposes
from tlopt.graphs.shapes import fold_shapes
from tlopt.imports.formats.comparison import Original
from tlopt.process import children, temporary
from tlopt.sessions import simplified


@dataclass(frozen=True, kw_only=True)
class Library:
    """What opens a format.

    Args:
        name: For messages.
        module: The module of tlopt that runs in the process; see `speak`.
        needs: What to say if it is not installed.
        install: What brings it.
        hint: What to do where it cannot open or export a network.
        environment: Variables of the process; ``{folder}`` stands for a folder of its own.
    """

    name: str
    module: str
    needs: str
    install: str
    hint: str
    environment: Mapping[str, str] = field(default_factory=dict)


def converted(library: Library, source: Path, *, size: int | None, width: int | None) -> Original:
    """Return a network as a plain graph, channels first but for the input, and what its library answers.

    Args:
        library: Opens it.
        source: The network.
        size: Side of the image, or its height, where the network takes any.
        width: Of the image, likewise.

    Raises:
        ArtifactError: The library cannot open or export it.
        MissingLibraryError: The library is not installed.
    """
    with temporary.folder("import") as folder:
        target, example = folder / "model.onnx", folder / "example.npz"
        own = children.command(library.module, source.absolute(), target, example, size or 0, width or 0)
        variables = {name: value.format(folder=folder) for name, value in library.environment.items()}
        environment = {**children.environment(), **variables}
        done = subprocess.run(own, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0 or not target.exists() or not example.exists():
            raise _failure(library, source, done)
        graph = plain(target)
        with np.load(example, allow_pickle=False) as stored:
            answers = [stored[f"answer_{place}"] for place in range(len(stored) - 1)]
            return Original(graph=graph, inputs=stored["inputs"], answers=answers, runtime=library.name)


def plain(file: Path) -> onnx.ModelProto:
    """Return a graph of a framework that puts the channels last as one that puts them first, but for the input."""
    return merge_pads(fold(cancel_transposes(fold_shapes(clean(simplified(file))))))


def _failure(library: Library, source: Path, done: subprocess.CompletedProcess[str]) -> Exception:
    said = done.stdout.strip().rpartition("\n")[2]
    if said == "missing":
        return MissingLibraryError(library.needs, hint=f"python -m pip install '{library.install}'")
    try:
        reason = str(json.loads(said)["error"])
    except (ValueError, KeyError, TypeError):
        reason = f"its process {children.ended(done.returncode)}"
    return ArtifactError(f"{library.name} cannot open and export {source}: {reason}", hint=library.hint)


def speak(work: Callable[[Path, Path, int, int], tuple[np.ndarray, Sequence[np.ndarray]]]) -> None:
    """Do the work of such a process, whose arguments are SOURCE TARGET EXAMPLE SIZE WIDTH, and end it.

    Args:
        work: Writes the network in SOURCE to TARGET, as ONNX; returns images as the network takes them, and what it
            answers. Whatever it prints goes to stderr. A missing library is an `ImportError`.
    """
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    source, target, example, size, width = sys.argv[1:]
    said = ""
    try:
        inputs, answers = work(Path(source), Path(target), int(size), int(width))
        arrays: dict[str, Any] = {f"answer_{place}": answer for place, answer in enumerate(answers)}
        np.savez(example, inputs=inputs, **arrays)
    except ImportError:
        said = "missing"
    except Exception as error:  # noqa: BLE001 - libraries raise whatever they stumble over
        reason = str(error).strip().partition("\n")[0][:500] or type(error).__name__
        said = json.dumps({"error": reason})
    own.write(f"{said}\n")
    own.flush()
    sys.exit(bool(said))
