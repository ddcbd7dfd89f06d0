"""Which images go to training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from tlopt.errors import SettingError
from tlopt.settings import Setting

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How large a part of the images is not for training."""

    val: Annotated[
        float, Setting("Share of the images for validation.", minimum=0, maximum=0.9, group="Data", common=True)
    ] = 0.15
    test: Annotated[
        float, Setting("Share of the images for the final test.", minimum=0, maximum=0.9, group="Data", common=True)
    ] = 0.15


def assign(
    labels: np.ndarray, groups: np.ndarray, shares: Mapping[Split, float], *, seed: int, classes: int
) -> np.ndarray:
    """Deal images out to parts: stratified by class, with each group on one side.

    Groups of several images are dealt first, the largest first, each to the part that has the most
    room left for its classes; single images then fill what each class still wants. A part gets at
    least one image of each class that has enough groups, and training always does.

    Args:
        labels: int64 (n,), in 0..classes.
        groups: int64 (n,); images of one number stay together.
        shares: Share of the images of each part besides "train", 0..1.
        seed: Seed of the draw.
        classes: Number of classes.

    Returns:
        int8 (n,), indices into `SPLITS`.

    Raises:
        SettingError: The shares leave nothing for training, or there are too few groups to give
            every part one.
    """
    wanted = {part: share for part, share in shares.items() if share > 0}
    if sum(wanted.values()) >= 1:
        raise SettingError(
            f"The shares of {' and '.join(wanted)} sum up to {sum(wanted.values()):g}; nothing is left for training.",
            hint="Choose shares that sum up to less than 1.",
        )
    result = np.zeros(len(labels), dtype=np.int8)
    if not wanted or not len(labels):
        return result
    random = np.random.default_rng(seed)
    _, group_of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group_of)
    room = _room(labels, group_of, wanted, classes)
    target = np.maximum(room, 1)

    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    large = order[sizes[order] > 1]
    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(sizes)[:-1])
    for group in large:
        counts = np.bincount(labels[members[group]], minlength=classes)
        held = counts > 0
        left = (room[:, held] - counts[held]) / target[:, held]
        # The tightest of the group's classes decides; a tie goes to training, which comes first.
        part = int(left.min(axis=1).argmax())
        result[members[group]] = part
        room[part] -= counts
    single = np.flatnonzero(sizes[group_of] == 1)
    single = single[random.permutation(len(single))]
    for label in range(classes):
        rest = single[labels[single] == label]
        for part in (SPLITS.index(name) for name in wanted):
            taken = max(0, int(room[part, label]))
            result[rest[:taken]] = part
            rest = rest[taken:]
    _fill_empty(result, labels, members, sizes, wanted)
    return result


def _room(labels: np.ndarray, group_of: np.ndarray, wanted: Mapping[Split, float], classes: int) -> np.ndarray:
    """Return how many images of each class each part should get: int64 (parts, classes)."""
    total = np.bincount(labels, minlength=classes)
    pairs = np.unique(np.stack([labels, group_of]), axis=1)
    groups = np.bincount(pairs[0], minlength=classes)
    room = np.zeros((len(SPLITS), classes), dtype=np.int64)
    for part, share in wanted.items():
        rounded = np.round(share * total).astype(np.int64)
        room[SPLITS.index(part)] = np.where(groups > len(wanted), np.maximum(1, rounded), rounded)
    # Rounding must not take a small class's last image from training.
    for label in np.flatnonzero(room.sum(axis=0) >= np.maximum(1, total)):
        while room[:, label].sum() >= max(1, total[label]):
            room[room[:, label].argmax(), label] -= 1
    room[0] = total - room.sum(axis=0)
    return room


def _fill_empty(
    result: np.ndarray, labels: np.ndarray, members: list[np.ndarray], sizes: np.ndarray, wanted: Mapping[Split, float]
) -> None:
    """Give a part that got nothing the smallest group that training can spare."""
    for part in wanted:
        if np.any(result == SPLITS.index(part)):
            continue
        training = np.bincount(labels[result == 0])
        for group in np.argsort(sizes, kind="stable"):
            files = members[group]
            lost = np.bincount(labels[files], minlength=len(training))
            if result[files[0]] == 0 and np.all((lost == 0) | (lost < training)):
                result[files] = SPLITS.index(part)
                break
        else:
            raise SettingError(
                f"{len(sizes)} groups of images are too few for a training part with every class and a {part} part.",
                hint="A group is one image with its copies, or all images that --group-by puts together.",
            )
