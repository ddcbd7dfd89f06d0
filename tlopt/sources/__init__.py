"""Where pretrained models come from: one file per source.

A source module defines

    def names() -> tuple[str, ...]                           the models it knows, empty if it cannot list them
    def build(name, *, classes, **options) -> nn.Module      the architecture with random weights
    def load(name, *, classes, **options) -> (nn.Module, Preprocess)
                                                             with pretrained weights; `classes` 0 keeps
                                                             the pretrained classifier, any other number
                                                             puts a new one in its place

and, where names change or classes have names of their own,

    def pinned(name) -> str                                  what the name stands for now, with options
    def class_names(name) -> tuple[str, ...] | None          the classes of the pretrained classifier

A model is named ``source:name``, with options of the architecture after a question mark
("timm:mobilenetv2_100?pad_type=same"). A source that is no file here is a module of the user's own,
and the name a function in it (see `tlopt.sources.module`); its code runs if it is trusted (`tlopt.trusted`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlopt.sources._naming import expect_known, expect_known_at_once

if TYPE_CHECKING:
    from tlopt.sources._opening import build as build
    from tlopt.sources._opening import check_artifact as check_artifact
    from tlopt.sources._opening import class_names as class_names
    from tlopt.sources._opening import keep as keep
    from tlopt.sources._opening import load as load
    from tlopt.sources._opening import open_model as open_model
    from tlopt.sources._opening import pinned as pinned

# What opens models imports torch, which takes seconds: names are known without it.
_OPENING = ("build", "check_artifact", "class_names", "keep", "load", "open_model", "pinned")

__all__ = ["expect_known", "expect_known_at_once", *_OPENING]


def __getattr__(name: str) -> Any:
    if name not in _OPENING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tlopt.sources import _opening

    return getattr(_opening, name)
