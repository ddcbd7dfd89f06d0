"""How far the outputs of one network are from those of another, whatever they mean.

A classifier is judged by its classes (`tlopt.judging`). Boxes, masks and embeddings are judged here, by the error
of each output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from tlopt.cards.card import Card
from tlopt.cards.details import Output, OutputError
from tlopt.judging import decibels

Answer = tuple[np.ndarray, ...]  # each output of one image, in the order of the card

_NOTHING = 1e-12  # share of the size of all values below which their spread is rounding
_MOST = 1e12  # noise over signal that is told from infinite
_PAIRED = 2048  # rows that are paired by nearness; more are paired by their places
_KEPT = 1 << 16  # values of an output of an image that a search looks at


@dataclass
class _Sums:
    """What is added up of one output, over all images.

    Attributes:
        error: Of squared differences.
        own: Of the reference's squared values.
        other: Of the candidate's squared values.
        both: Of products.
        total: Of the reference's values.
        count: Number of values.
        largest: Largest difference.
        unequal: Number of values that differ.
        rows: Number of rows of the reference and of the candidate, together.
        paired: Number of rows of both that found a partner.
    """

    error: float = 0.0
    own: float = 0.0
    other: float = 0.0
    both: float = 0.0
    total: float = 0.0
    count: int = 0
    largest: float = 0.0
    unequal: int = 0
    rows: int = 0
    paired: int = 0

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Add values of the same shape."""
        first, second = reference.astype(np.float64), candidate.astype(np.float64)
        difference = np.abs(second - first)
        self.error += float(np.square(difference).sum())
        self.own += float(np.square(first).sum())
        self.other += float(np.square(second).sum())
        self.both += float((first * second).sum())
        self.total += float(first.sum())
        self.count += first.size
        self.largest = max(self.largest, float(difference.max(initial=0)))
        self.unequal += int((reference != candidate).sum())

    def merge(self, other: _Sums) -> None:
        """Add what was added up elsewhere."""
        for one in fields(self):
            mine, its = getattr(self, one.name), getattr(other, one.name)
            setattr(self, one.name, max(mine, its) if one.name == "largest" else mine + its)

    def noise(self) -> float:
        """Return the squared error over the squared size of the reference about its mean, 0 if they are equal."""
        if not self.error:
            return 0.0
        spread = self.own - self.total**2 / max(1, self.count)
        signal = spread if spread > _NOTHING * self.own else self.own
        return min(self.error / signal, _MOST) if signal else _MOST


def described(card: Card) -> tuple[Output, ...]:
    """Return the outputs of any network: of a classifier its row of logits."""
    return card.outputs or (Output(name="logits", dtype="float32", shape=(len(card.classes),), batched=True),)


class Errors:
    """Adds up the errors of a network's outputs, image by image.

    Where the number of rows varies, as after a non-maximum suppression, the rows of both networks are paired: each
    row of the shorter list with the nearest one of the other. A row without a partner is an error of its own size.
    """

    def __init__(self, outputs: Sequence[Output]) -> None:
        """Begin with no image.

        Args:
            outputs: Of both networks, from the card.
        """
        self._outputs = tuple(outputs)
        self._sums = [_Sums() for _ in outputs]

    def add(self, reference: Answer, candidate: Answer) -> None:
        """Add an image.

        Args:
            reference: What one network says of it.
            candidate: What the other says.
        """
        groups: dict[tuple[int, int], list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for place, (first, second) in enumerate(zip(reference, candidate, strict=True)):
            if first.shape == second.shape and not self._outputs[place].varies:
                self._sums[place].add(first, second)
            else:
                axis = _axis(self._outputs[place], first, second)
                pair = _rows(first, axis), _rows(second, axis)
                groups.setdefault((len(pair[0]), len(pair[1])), []).append((place, *pair))
        for members in groups.values():
            places, own, other = (list(column) for column in zip(*members, strict=True))
            self._pair(places, own, other)

    def merge(self, other: Errors) -> None:
        """Add the images of another one, of the same outputs."""
        for mine, its in zip(self._sums, other._sums, strict=True):
            mine.merge(its)

    def _pair(self, places: list[int], first: list[np.ndarray], second: list[np.ndarray]) -> None:
        """Add outputs whose rows belong together: a box, its score and its class."""
        own, other = _pairs(first, second)
        for place, rows, found in zip(places, first, second, strict=True):
            sums = self._sums[place]
            sums.rows += len(rows) + len(found)
            sums.paired += 2 * len(own)
            if len(own):
                sums.add(rows[own], found[other])
            for lonely, swap in ((np.delete(rows, own, axis=0), False), (np.delete(found, other, axis=0), True)):
                nothing = np.zeros_like(lonely)
                sums.add(nothing, lonely) if swap else sums.add(lonely, nothing)

    def found(self) -> tuple[OutputError, ...]:
        """Return the error of each output over all images so far."""
        return tuple(_error(output, sums) for output, sums in zip(self._outputs, self._sums, strict=True))

    def noise(self) -> float:
        """Return the share of noise in the worst output; in one of whole numbers, the share of other values."""
        return max(_noise(output, sums) for output, sums in zip(self._outputs, self._sums, strict=True))


def thinned(answer: Answer, outputs: Sequence[Output]) -> Answer:
    """Return an answer with some values of its large outputs, spread over all of them, the same ones for each image."""
    found = []
    for values, output in zip(answer, outputs, strict=True):
        stride = 1 if output.varies else max(1, values.size // _KEPT) | 1  # odd: it walks through all channels alike
        found.append(values if stride == 1 else values.reshape(-1)[::stride].copy())
    return tuple(found)


def worst(errors: Sequence[OutputError]) -> float:
    """Return the signal to noise of the worst output, decibels."""
    return min(decibels(1 - e.equal) if e.snr_db is None and e.equal is not None else e.snr_db or 0.0 for e in errors)


def is_whole(output: Output) -> bool:
    """Whether an output is of whole numbers or of yes and no."""
    return not output.dtype.startswith(("float", "bfloat"))


def said(error: OutputError) -> str:
    """Return the error of an output in words."""
    if error.equal is not None:
        text = f"{error.name} {error.equal:.1%} equal"
    else:
        text = f"{error.name} {error.snr_db:.1f} dB"
    return text if error.rows is None else f"{text} ({error.rows:.0%} of the rows in both)"


def _noise(output: Output, sums: _Sums) -> float:
    return sums.unequal / max(1, sums.count) if is_whole(output) else sums.noise()


def _error(output: Output, sums: _Sums) -> OutputError:
    rows = round(sums.paired / sums.rows, 4) if sums.rows else None
    if is_whole(output):
        return OutputError(name=output.name, equal=round(1 - sums.unequal / max(1, sums.count), 6), rows=rows)
    sizes = math.sqrt(sums.own * sums.other)
    cosine = sums.both / sizes if sizes else float(sums.own == sums.other)
    return OutputError(
        name=output.name,
        snr_db=round(decibels(sums.noise()), 2),
        cosine=round(min(1.0, cosine), 6),
        largest=sums.largest,
        rows=rows,
    )


def _axis(output: Output, first: np.ndarray, second: np.ndarray) -> int:
    """Return the axis that runs over the rows of an output: the one whose length varies."""
    if output.varies:
        return output.shape.index(0)
    return next((axis for axis, (a, b) in enumerate(zip(first.shape, second.shape, strict=False)) if a != b), 0)


def _rows(values: np.ndarray, axis: int) -> np.ndarray:
    """Return an output as rows, (n, d)."""
    width = math.prod(length for place, length in enumerate(values.shape) if place != axis)
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], width)


def _features(rows: list[np.ndarray], reference: list[np.ndarray]) -> np.ndarray:
    """Return what rows are told apart by, float64 (n, d): every column on a scale of the reference's."""
    found = []
    for values, own in zip(rows, reference, strict=True):
        spread = float(own.astype(np.float64).std()) if own.size else 1.0
        found.append(values.astype(np.float64) / (spread or 1.0) / math.sqrt(max(1, values.shape[1])))
    return np.concatenate(found, axis=1)


def _pairs(first: list[np.ndarray], second: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the rows of both that belong together: int64 (k,) twice."""
    if any(a.shape[1] != b.shape[1] for a, b in zip(first, second, strict=True)):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    least = min(len(first[0]), len(second[0]))
    if max(len(first[0]), len(second[0])) > _PAIRED:
        return np.arange(least), np.arange(least)
    return _nearest(_features(first, first), _features(second, first))


def _nearest(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of rows that are paired, nearest first, each row once: int64 (k,) twice."""
    distances = np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2 * first @ second.T
    own, other = [], []
    free, open_ = np.ones(len(first), bool), np.ones(len(second), bool)
    for flat in np.argsort(distances, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(second))
        if free[i] and open_[j]:
            own.append(i)
            other.append(j)
            free[i] = open_[j] = False
            if len(own) == min(len(first), len(second)):
                break
    return np.array(own, np.int64), np.array(other, np.int64)


def in_words(output: Output) -> str:
    """Return the name, the shape and the type of an output, as "boxes (n, any, 4)"."""
    lengths = [str(length or "any") for length in output.shape]
    shape = ", ".join(["n", *lengths] if output.batched else lengths)
    kind = "" if output.dtype == "float32" else f" {output.dtype}"
    return f"{output.name} ({shape}){kind}"
