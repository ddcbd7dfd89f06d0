"""Searches whose networks are only names, and results of their steps: what decisions are made on."""

from __future__ import annotations

from pathlib import Path

from tlopt.cards.card import plain
from tlopt.images.parts import Shares
from tlopt.search.budget import Budget
from tlopt.search.features import Score
from tlopt.search.funnel.asked import WIDTHS, Asked, Images
from tlopt.search.funnel.results import read
from tlopt.search.funnel.situation import Situation
from tlopt.search.space import Network, Space
from tlopt.search.study.storage import Entry
from tlopt.search.timed import Timed


def asked(*, names=("a", "b"), sizes=(32,), precisions=("fp32", "int8"), kind="images", **budget):
    """Return a search among networks of these names."""
    return Asked(
        kind=kind,
        space=Space(
            networks=tuple(Network(name=f"timm:{name}") for name in names), image_sizes=sizes,
            precisions=precisions, widths=(1.0, *WIDTHS),
        ),
        budget=Budget(**(budget or {"latency_ms": 5.0})),
        images=Images(path=Path("images"), digest="0" * 64, classes=("x", "y"), train=100, val=100, test=100),
        shares=Shares(),
        seed=0,
        epochs=8,
    )  # fmt: skip


def contender(search, name, size=32):
    """Return a contender by the name of its network."""
    return next(one for one in search.contenders if (one.network.name, one.image_size) == (f"timm:{name}", size))


def timed(latency_ms, *, noise=0.02, point="", size_mb=1.0, memory_mb=None, p99=1.1):
    """Return a timing."""
    return Timed(
        point=point, machine="m", backend="onnxruntime:cpu", batch=1, latency_ms=latency_ms,
        interval_ms=(latency_ms * (1 - noise), latency_ms * (1 + noise)), sessions_ms=(latency_ms,),
        p99_ms=latency_ms * p99, images_per_s=1e3 / latency_ms, size_mb=size_mb, memory_mb=memory_mb, seconds=1.0,
    )  # fmt: skip


def point(search, one, precision="fp32", width=1.0):
    """Return a point of a contender."""
    return next(found for found in search.points(one, width) if found.precision == precision)


class Known:
    """Results that a test writes down step by step."""

    def __init__(self, search, left_s=1000.0, total_s=1000.0):
        self.search, self.left_s, self.total_s, self.entries = search, left_s, total_s, []
        self.reserve_s = 0.0

    def done(self, key, result, *, took_s=1.0):
        result = result if isinstance(result, dict) else plain(result)
        number = len(self.entries)
        self.entries.append(
            Entry(number=number, key=key, owner={}, state="done", result={**result, "step_seconds": took_s})
        )
        return self

    def time(self, name, latency_ms, size=32, width=1.0, int8=0.5, **given):
        """Write down how fast a network is; int8 takes a share of it."""
        one = contender(self.search, name, size)
        for precision, share in (("fp32", 1.0), ("int8", int8)):
            found = point(self.search, one, precision, width)
            self.done(f"time/{found.digest}", timed(latency_ms * share, point=found.digest, **given))
        return self

    def rank(self, name, accuracy, size=32, seconds=0.0, loss=None):
        """Write down what a network's frozen features are worth."""
        score = Score(
            accuracy=accuracy, interval=(accuracy, accuracy), loss=1 - accuracy if loss is None else loss, images=100,
            folds=5, penalty=0.1, seconds=seconds,
        )  # fmt: skip
        return self.done(f"rank/{contender(self.search, name, size).key}", score)

    def train(self, name, epochs, accuracy, artifact="", size=32, took_s=1.0):
        """Write down how far a training came."""
        result = {"epochs": epochs, "accuracy": accuracy, "loss": 1 - accuracy, "artifact": artifact}
        return self.done(f"train/{contender(self.search, name, size).key}/{epochs}", result, took_s=took_s)

    def now(self):
        """Return what is known."""
        return Situation(
            asked=self.search, results=read(self.entries), left_s=self.left_s, total_s=self.total_s,
            reserve_s=self.reserve_s,
        )  # fmt: skip
