"""Channels that a forward pass splits: each part by itself, or all parts alike, and opened again afterwards."""

import copy

import pytest
import torch
from cut_nets import thinned, zeroed
from torch import nn

from tlopt.networks import vision_ops, weights
from tlopt.pruning import analysis, channels

vision_ops.declare()
from timm.layers import BlurPool2d, ConvNormAct, MixedConv2d  # noqa: E402 - after the declaration that it needs
from timm.models.cspnet import CrossStage  # noqa: E402
from timm.models.res2net import Bottle2neck  # noqa: E402

SIZE = 16


class Net(nn.Module):
    """A stem, a block under test, and a classifier."""

    def __init__(self, block, width):
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, 24, 3, 2, 1), block, nn.Linear(width, 3)

    def forward(self, images):
        return self.fc(self.block(self.stem(images).relu()).relu().mean((2, 3)))


class Halves(nn.Module):
    """Takes halves of its channels, however many there are."""

    def __init__(self):
        super().__init__()
        self.wide, self.left, self.right = nn.Conv2d(24, 16, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(8, 12, 1)

    def forward(self, features):
        left, right = self.wide(features).chunk(2, 1)
        return self.left(left) + self.right(right)


def mixed():
    return Net(
        nn.Sequential(nn.Conv2d(24, 20, 1), MixedConv2d(20, 20, [3, 5, 7], depthwise=True), nn.BatchNorm2d(20)), 20
    )


def halves():
    return Net(Halves(), 12)


def crossed():
    return Net(
        CrossStage(
            24, 32, stride=1, dilation=1, depth=1, block_ratio=0.5, norm_layer=nn.BatchNorm2d, act_layer=nn.ReLU
        ),
        32,
    )


def scaled():
    return Net(
        nn.Sequential(nn.Conv2d(24, 64, 1), Bottle2neck(64, 16, scale=4, base_width=32, norm_layer=nn.BatchNorm2d)), 64
    )


def blurred():
    return Net(nn.Sequential(ConvNormAct(24, 32, 1), BlurPool2d(32), nn.Conv2d(32, 8, 1)), 8)


class Last(nn.Module):
    """Linear layers on channels that come last."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, features):
        last = self.narrow(self.wide(features.permute(0, 2, 3, 1)).relu())
        return features + last.permute(0, 3, 1, 2)


def last():
    return Net(Last(), 24)


@pytest.mark.parametrize(
    ("made", "layer", "parts"),
    [
        (mixed, "block.0", 3),
        (halves, "block.wide", 1),
        (crossed, "block.conv_exp.conv", 1),
        (scaled, "block.1.conv1", 1),
        (blurred, "block.0.conv", 1),
        (last, "block.wide", 1),
    ],
)
def test_split_channels_are_cut_and_the_network_is_opened_again(made, layer, parts, tmp_path):
    torch.manual_seed(0)
    model = made().eval()
    fresh = copy.deepcopy(model)
    images = torch.randn(2, 3, SIZE, SIZE)
    network = analysis.analyze(model, SIZE)
    assert layer not in network.whole
    holding = [group for group in network.groups if any((m.name, m.role) == (layer, "out") for m in group.members)]
    assert len(holding) == parts
    kept = thinned(network, 0.4)
    expected = zeroed(model, network, kept)
    predicted = network.macs({group: int((~stays).sum()) for group, stays in kept.items()})
    channels.cut(network.groups, kept, model)
    with torch.no_grad():
        logits = model(images)
        torch.testing.assert_close(logits, expected(images), rtol=1e-4, atol=1e-5)  # sums in another order
    assert analysis.multiply_adds(model, SIZE) == predicted < network.macs()
    groups = weights.save(model, tmp_path)
    restored = weights.restore(fresh, weights.read(tmp_path / weights.FILE), groups=groups, where="it")
    with torch.no_grad():
        torch.testing.assert_close(restored.eval()(images), logits)


def test_a_channel_that_many_ways_lead_to_is_looked_at_once():
    """Torch-Pruning's own walk goes along each of the 2 ** 24 ways through this network."""

    class Ways(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 3)

        def forward(self, images):
            features = self.stem(images)
            for _ in range(24):
                features = features.relu() + features.sigmoid()
            return self.fc(features.mean((2, 3)))

    network = analysis.analyze(Ways().eval(), SIZE)
    assert [group.name for group in network.groups] == ["stem"]
