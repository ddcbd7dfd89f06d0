"""Labelled images and others in one epoch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tlopt.training.joining import MOST, joined, length


class Others(list):
    """The labels of images that stand for more."""

    labels = property(lambda self: np.array(self, np.int64))


def beside(*counts):
    return SimpleNamespace(folder=Others(np.repeat(np.arange(len(counts)), counts)))


LABELS = np.repeat(np.arange(3), [10, 20, 30])


@pytest.mark.parametrize("counts", [(500, 500, 500), (3, 400, 0), (900, 0, 0), (1, 2, 3), (0, 7, 0)])
def test_every_class_keeps_its_share_and_every_labelled_image_is_there(counts):
    others = beside(*counts)
    chosen = joined(LABELS, others, np.random.default_rng(0))
    assert len(chosen) == length(LABELS, others) <= (1 + MOST) * len(LABELS)
    assert set(range(len(LABELS))) <= set(chosen.tolist())
    all_labels = np.concatenate([LABELS, others.folder.labels])
    shares = np.bincount(all_labels[chosen], minlength=3) / len(chosen)
    assert np.allclose(shares, [1 / 6, 1 / 3, 1 / 2], atol=0.02)
    new = chosen[chosen >= len(LABELS)]
    assert len(set(new.tolist())) == len(new)


def test_others_that_are_few_make_no_epoch_longer_than_they_are():
    assert length(LABELS, beside(2, 4, 6)) == len(LABELS) + 12
    assert length(LABELS, None) == len(LABELS)


def test_each_epoch_draws_others():
    others = beside(500, 500, 500)
    one, two = (set(joined(LABELS, others, np.random.default_rng([0, epoch])).tolist()) for epoch in (0, 1))
    assert one != two
    assert one == set(joined(LABELS, others, np.random.default_rng([0, 0])).tolist())
