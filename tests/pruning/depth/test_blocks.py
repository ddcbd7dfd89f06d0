import copy

import pytest
import torch
from torch import nn

from tlopt.networks import removal
from tlopt.pruning.depth import blocks

SIZE = 16


class Residual(nn.Module):
    """Adds two convolutions to its input, as ResNets do."""

    def __init__(self, inner=None, width=8):
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.inner = inner or nn.Identity()
        self.second = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, features):
        return (features + self.second(self.inner(self.norm(self.first(features)).relu()))).relu()


class Plain(Residual):
    """The same shapes without an addition."""

    def forward(self, features):
        return self.second(self.norm(self.first(features)).relu()).relu()


class Scaled(Residual):
    """Adds to half of its input."""

    def forward(self, features):
        return (features / 2 + self.second(self.first(features))).relu()


class Named(nn.Module):
    """Its forward pass asks its blocks for their widths, so that none can go."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, 8, 3, 2, 1), Residual(), nn.Linear(8, 3)

    def forward(self, images):
        features = self.block(self.stem(images).relu())
        return self.fc(features.mean((2, 3))) * self.block.first.out_channels


def net(*parts):
    """Return a network with parts in a row between its stem and its classifier."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(stem, nn.Sequential(*parts), head).eval()


def found(model):
    return [block.name for block in blocks.find(model, SIZE)]


def test_blocks_are_found_by_what_they_compute():
    model = net(Residual(), Plain(), Scaled(), Residual(), nn.ReLU(), nn.Conv2d(8, 8, 1))
    before = copy.deepcopy(model.state_dict())
    assert found(model) == ["1.0", "1.3"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_block_in_a_block_counts_and_a_row_of_blocks_does_not():
    model = net(Residual(inner=Residual()), nn.Sequential(Residual(), Residual()))
    assert found(model) == ["1.0", "1.0.inner", "1.1.0", "1.1.1"]


def test_what_runs_twice_is_no_block():
    shared = Residual()
    assert found(net(shared, Plain(), shared)) == []


def test_a_block_that_the_forward_pass_looks_into_stays():
    torch.manual_seed(0)
    assert found(Named().eval()) == []


def test_one_block_that_has_to_stay_keeps_no_other_from_going():
    model = nn.Sequential(Named(), nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 8, 1), nn.ReLU(), Residual(), nn.Flatten())
    assert found(model.eval()) == ["4"]


@pytest.mark.parametrize("last", [0.0, 1.0])
def test_harm_is_how_far_the_answers_move(last):
    model = net(Residual(), Residual())
    nn.init.constant_(model[1][1].second.weight, last)
    nn.init.zeros_(model[1][1].second.bias)
    images = torch.randn(8, 3, SIZE, SIZE)
    before = copy.deepcopy(model.state_dict())

    def shown(_):
        return iter([(images, torch.zeros(8, dtype=torch.int64))])

    with torch.no_grad():
        answers = model.train()(images)
    model.load_state_dict(before)
    harms = blocks.harms(model.eval(), blocks.find(model, SIZE), shown, answers)
    assert harms["1.0"] > 0
    assert harms["1.1"] == pytest.approx(0, abs=1e-6) if last == 0 else harms["1.1"] > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    without = copy.deepcopy(model)
    removal.remove(without, ["1.0"])
    with torch.no_grad():
        expected = blocks.divergence(without.train()(images), answers)
    assert harms["1.0"] == pytest.approx(expected, rel=1e-4)


def test_a_removed_block_is_known_by_its_place():
    model = net(Residual(), Residual())
    removal.remove(model, ["1.1"])
    assert removal.removed(copy.deepcopy(model)) == ("1.1",)
    assert found(model) == ["1.0"]
    assert "1.0.first.weight" in model.state_dict()
