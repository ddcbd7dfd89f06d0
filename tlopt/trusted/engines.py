"""Engines whose code may run: a version-compatible engine of TensorRT holds a program for the processor.

The program runs when the engine is opened. So it takes a word of the person who opens it: that person built the engine,
which is remembered by its digest, or named it: ``--trust engine:SHA256``, `trusted.trust`, ``TLOPT_TRUST``. What a card
says is no such word.
"""

from __future__ import annotations

import os
from pathlib import Path

from tlopt import trusted
from tlopt.errors import ArtifactError
from tlopt.reading.names import shown_name
from tlopt.trusted import memory
from tlopt.trusted.places import Place


def remember(digest: str, file: Path) -> None:
    """Keep that the person who runs this built an engine.

    Args:
        digest: sha256 of the engine's bytes.
        file: Where it was built.
    """
    memory.keep(f"engine:{digest}", Place(file=str(file), folder="", sha256=digest))


def check(digest: str, artifact: Path) -> None:
    """Check that the code in an engine may run, before it does.

    Raises:
        ArtifactError: Nobody said so.
    """
    word = f"engine:{digest}"
    named = {name.strip() for name in os.environ.get(trusted.VARIABLE, "").split(",")}
    if trusted.named(word) or word in named or memory.remembered(word):
        return
    raise ArtifactError(
        f"The engine {shown_name(str(artifact))} is version-compatible: it holds code that runs on the processor when "
        "it is opened. You did not build it here.",
        hint=f"Only if you trust whoever built it: add --trust {word}. Or build it again from its onnx artifact.",
    )
