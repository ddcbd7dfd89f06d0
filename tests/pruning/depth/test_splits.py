import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tlopt.networks import removal
from tlopt.pruning import analysis, widths
from tlopt.pruning.criteria import magnitude
from tlopt.pruning.cuts import Limits
from tlopt.pruning.depth import blocks, splits
from tlopt.pruning.ways import ByMacs

SIZE = 8


class Residual(nn.Module):
    """Adds a convolution to its input, so many times as large as it is strong."""

    def __init__(self, strength):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)
        with torch.no_grad():
            self.conv.weight.mul_(strength)
            self.conv.bias.zero_()

    def forward(self, features):
        return features + self.conv(features)


@pytest.fixture
def model():
    torch.manual_seed(0)
    parts = [Residual(strength) for strength in (1.0, 0.01, 0.1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), *parts, *head).eval()


def best(model, ratio, losses):
    """Return what is chosen, and how many channels the stem had at each number of blocks that was judged."""
    network = analysis.analyze(model, SIZE)
    scores = {group.name: magnitude.score(group) for group in network.groups}
    limits = Limits(multiple=2, even=False, least=widths.floors(network))
    way, stems = ByMacs(budget=network.macs() * (1 - ratio), limits=limits), {}
    images = torch.randn(16, 3, SIZE, SIZE)

    def shown(_):
        return iter([(images, torch.zeros(16, dtype=torch.int64))])

    def judged(trial, network, kept):
        count = len(removal.removed(trial))
        stems[count] = 8 - sum(widths.removed(kept).values())
        return losses.get(count, 9.0)

    task = splits.Task(size=SIZE, criterion=magnitude, shown=shown, seed=0, whole=model, judged=judged)
    return *splits.best(model, network, scores, way, task), stems


def test_the_block_that_matters_least_goes_first_and_channels_make_up_the_rest(model):
    gone, tried, stems = best(model, 0.58, {0: 1.0, 1: 0.5})
    assert gone == ("2",)
    # The weakest of three equally large blocks, then the next one.
    assert [split.blocks for split in tried] == [(), ("2",), ("2", "3")]
    assert stems == {0: 4, 1: 6, 2: 8}
    assert removal.removed(model) == ()


def test_a_block_whose_layers_cost_nothing_by_the_table_is_the_last_to_go(model):
    network = analysis.analyze(model, SIZE)
    found = blocks.find(model, SIZE)
    way = SimpleNamespace(cost=lambda layer, _: 0.0 if layer.name.startswith("2.") else 1.0)
    images = torch.randn(16, 3, SIZE, SIZE)
    task = splits.Task(
        size=SIZE, criterion=magnitude, shown=lambda _: iter([(images, torch.zeros(16, dtype=torch.int64))]), seed=0,
        whole=model, judged=None,
    )  # fmt: skip
    answers = blocks.logits_of(model, [images])
    assert splits._next(model, network, found, way, task, answers).name == "3"


def test_the_search_ends_where_blocks_alone_are_enough(model):
    _, tried, stems = best(model, 0.25, {0: 3.0, 1: 2.0, 2: 1.0})
    assert len(tried) == 2
    assert stems[1] == 8


def test_two_numbers_in_a_row_that_are_no_better_end_the_search(model):
    gone, tried, _ = best(model, 0.9, {0: 1.0})
    assert gone == ()
    assert len(tried) == 3


def test_a_number_that_cannot_be_judged_is_not_chosen(model):
    gone, tried, _ = best(model, 0.58, {0: math.inf, 1: math.nan, 2: 1.0})
    assert gone == ("2", "3")
    assert [split.loss for split in tried] == [None, None, 1.0]


def test_what_channels_cannot_reach_blocks_may(model):
    gone, tried, stems = best(model, 0.97, {3: 5.0})
    assert tried[0].loss is None
    assert 0 not in stems
    assert len(gone) == len(tried) - 1 > 0
