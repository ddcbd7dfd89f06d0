"""Which images show the same picture: perceptual hashes, then a comparison of detail.

Candidates are found by two hashes of 64 bits each: the signs of the low frequencies (a cosine
transform against its median, as in pHash, Zauner 2010) and the signs of the horizontal gradient
(dHash, Krawetz 2013). Both say "same layout" of images that merely show one kind of thing in one
place, so each candidate pair is verified: the correlation of the fine detail of both thumbnails,
after what all images of the set have in common is taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlopt.data.inspection import SIDE, Inspection
from tlopt.images import ordered
from tlopt.progress import track

_LOW_BITS = 10  # most bits of 64 in which the first hashes of one picture differ
_BITS = 18  # most bits of 128 in which both hashes differ: recompressed 12, brightened 15, cut by 2 % 15
_COMMON = 50  # images from which on the set's mean is taken off; of fewer it is mostly themselves
_BLUR = 3.0  # standard deviation, thumbnail pixels, of what counts as layout, not as detail
_ROWS, _COLUMNS = 16, 8192  # of a block of comparisons: a megabyte, which the cache holds


@dataclass(frozen=True, kw_only=True, eq=False)
class Duplicates:
    """Which images show the same picture.

    Args:
        pairs: int64 (m, 2), positions of two images, the smaller first.
        similarity: float32 (m,), 1 for the same content.
        groups: int64 (n,), images of one number hang together by pairs.
    """

    pairs: np.ndarray
    similarity: np.ndarray
    groups: np.ndarray

    def members(self) -> list[np.ndarray]:
        """Return the positions in each group of at least two."""
        order = np.argsort(self.groups, kind="stable")
        bounds = np.flatnonzero(np.diff(self.groups[order])) + 1
        return [group for group in np.split(order, bounds) if len(group) > 1]

    def superfluous(self, ranking: Sequence[int] | np.ndarray) -> dict[int, int]:
        """Return image -> the image kept in its place.

        The images are gone through in the order of `ranking`; one is superfluous if it pairs with
        one that is kept. A chain of images that change little by little so keeps several of them.
        """
        neighbors: dict[int, list[int]] = {}
        for a, b in self.pairs.tolist():
            neighbors.setdefault(a, []).append(b)
            neighbors.setdefault(b, []).append(a)
        dropped: dict[int, int] = {}
        kept: set[int] = set()
        for image in (int(i) for i in ranking):
            instead = [other for other in neighbors.get(image, ()) if other in kept]
            if instead:
                dropped[image] = instead[0]
            else:
                kept.add(image)
        return dropped


def find(inspections: Sequence[Inspection], *, similarity: float) -> Duplicates:
    """Find the images that show the same picture.

    Args:
        inspections: The images; unreadable ones match nothing.
        similarity: How alike the details of two pictures must be, as a correlation; 1 finds files of
            the same content only.
    """
    first: dict[str, int] = {}
    pairs, alike = [], []
    single = []
    for i, inspection in enumerate(inspections):
        if inspection.problem:
            continue
        if (earlier := first.setdefault(inspection.content, i)) != i:
            pairs.append((earlier, i))
            alike.append(1.0)
        else:
            single.append(i)
    if similarity < 1 and len(single) > 1:
        positions = np.array(single)
        thumbnails = np.stack([inspections[i].thumbnail for i in single])
        near, scores = near_pairs(thumbnails, similarity=similarity)
        pairs += [tuple(pair) for pair in positions[near].tolist()]
        alike += scores.tolist()
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Duplicates(
        pairs=found, similarity=np.array(alike, dtype=np.float32), groups=connected(len(inspections), found)
    )


def near_pairs(thumbnails: np.ndarray, *, similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of thumbnails that show the same picture.

    Args:
        thumbnails: uint8 (n, 32, 32), grey.
        similarity: Smallest correlation of detail.

    Returns:
        int64 (m, 2), and float32 (m,) the correlations.
    """
    low, gradient = hashes(thumbnails)
    candidates = _candidates(low, gradient)
    detail = _detail(thumbnails)
    scores = np.empty(len(candidates), dtype=np.float32)
    for start in range(0, len(candidates), 4096):
        a, b = candidates[start : start + 4096].T
        scores[start : start + 4096] = np.einsum("ij,ij->i", detail[a], detail[b], dtype=np.float32)
    enough = scores >= similarity
    return candidates[enough], scores[enough]


def hashes(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two perceptual hashes, uint64 (n,) each: low frequencies, horizontal gradient."""
    cosine = np.cos(np.pi / SIDE * np.arange(8)[:, None] * (np.arange(SIDE) + 0.5)).astype(np.float32)
    rows, columns = _shrinking(8), _shrinking(9)
    low = np.empty(len(thumbnails), dtype=np.uint64)
    gradient = np.empty(len(thumbnails), dtype=np.uint64)
    for start in range(0, len(thumbnails), 4096):
        part = slice(start, start + 4096)
        grey = thumbnails[part].astype(np.float32)
        frequencies = (cosine @ grey @ cosine.T).reshape(-1, 64)
        above = frequencies > np.median(frequencies[:, 1:], axis=1, keepdims=True)
        low[part] = np.packbits(above, axis=1).view(np.uint64)[:, 0]
        steps = np.diff(rows @ grey @ columns.T, axis=2) > 0
        gradient[part] = np.packbits(steps.reshape(-1, 64), axis=1).view(np.uint64)[:, 0]
    return low, gradient


def _shrinking(size: int) -> np.ndarray:
    """Return the matrix that averages 32 values to `size`: float32 (size, 32)."""
    edges = np.linspace(0, SIDE, size + 1)
    pixel = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights: np.ndarray = (np.clip(overlap, 0, None) * size / SIDE).astype(np.float32)
    return weights


def _detail(thumbnails: np.ndarray) -> np.ndarray:
    """Return each thumbnail's detail as a unit vector: float32 (n, 1024); zeros if it has none."""
    offsets = np.arange(SIDE)[:, None] - np.arange(SIDE)
    blur = np.exp(-(offsets**2) / (2 * _BLUR**2))
    blur = (blur / blur.sum(axis=1, keepdims=True)).astype(np.float32)
    detail = np.empty((len(thumbnails), SIDE * SIDE), dtype=np.float32)
    for start in range(0, len(thumbnails), 4096):
        grey = thumbnails[start : start + 4096].astype(np.float32)
        detail[start : start + 4096] = (grey - blur @ grey @ blur.T).reshape(len(grey), -1)
    plain = np.linalg.norm(detail, axis=1) < SIDE  # less than one grey level
    if len(detail) >= _COMMON:
        detail -= detail.mean(axis=0)
    norms = np.linalg.norm(detail, axis=1, keepdims=True)
    detail /= np.maximum(norms, 1e-6)
    detail[plain] = 0
    return detail


def _candidates(low: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return all pairs whose hashes are close: int64 (m, 2).

    Compares every pair, in blocks and by threads: 5 x 10^9 pairs, of 100,000 images, take seconds.
    """
    count = len(low)

    def row(start: int) -> np.ndarray:
        mine = low[start : start + _ROWS, None]
        found = []
        for left in range(start, count, _COLUMNS):
            close = _popcount(mine ^ low[left : left + _COLUMNS]) <= _LOW_BITS
            a, b = np.nonzero(close)
            a, b = a + start, b + left
            later = a < b
            a, b = a[later], b[later]
            both = _popcount(low[a] ^ low[b]).astype(np.int16) + _popcount(gradient[a] ^ gradient[b])
            found.append(np.stack([a, b], axis=1)[both <= _BITS])
        return np.concatenate(found)

    starts = range(0, count, _ROWS)
    rows = list(track(ordered(row, starts, chunk=8), label="Comparing images", total=len(starts)))
    return np.concatenate(rows) if rows else np.empty((0, 2), dtype=np.int64)


def _popcount(values: np.ndarray) -> np.ndarray:
    """Return the number of set bits: uint8, of the same shape."""
    if hasattr(np, "bitwise_count"):  # since NumPy 2.0
        counted: np.ndarray = np.bitwise_count(values)
        return counted
    counts: np.ndarray = _BYTE_COUNTS[values[..., None].view(np.uint8)].sum(axis=-1, dtype=np.uint8)
    return counts


_BYTE_COUNTS = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


def connected(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return a number for each of `count` things such that those joined by pairs share it: int64."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs.tolist():
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(count)], dtype=np.int64)
