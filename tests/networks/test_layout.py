from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from tlopt.networks import layout

CPU = torch.device("cpu")
# Before layers like its first one were kept apart, this ended with signal 11 on processors with AVX-512.
TRAINING = """
import torch
from torch import nn
from tlopt.networks import layout

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 4, 3))
layout.place(model, torch.device("cpu"))
for _ in range(4):
    images = torch.randn(2, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    model(images).square().mean().backward()
print("trained")
"""


def network() -> nn.Sequential:
    """A strided 1 x 1 convolution with few channels, and one with many."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 1, stride=2), nn.ReLU(), nn.Conv2d(16, 8, 1, stride=2), nn.Conv2d(8, 8, 3))


@pytest.mark.slow
def test_a_network_with_a_strided_1x1_convolution_of_few_channels_trains():
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.parametrize(
    ("weight", "stride", "kept"),
    [
        ((48, 3, 1, 1), (2, 2), True),
        ((8, 15, 1, 1), (1, 2), True),
        ((8, 16, 1, 1), (2, 2), False),
        ((48, 3, 1, 1), (1, 1), False),
        ((48, 3, 3, 3), (2, 2), False),
    ],
)
def test_only_strided_1x1_convolutions_of_few_channels_are_kept_apart(weight, stride, kept):
    assert layout.writes_past_the_end(weight, stride) == kept


def test_all_other_layers_are_channels_last_and_the_gradients_are_the_same():
    plain, placed = network(), layout.place(network(), CPU)
    seen = {}
    for name, module in placed.named_children():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, given, __, name=name: seen.update({name: given[0]}))
    images = torch.randn(2, 3, 32, 32)
    plain(images).sum().backward()
    placed(images.contiguous(memory_format=torch.channels_last)).sum().backward()
    assert seen["0"].is_contiguous()
    assert placed[0].weight.stride() == (3, 1, 1, 1)
    assert placed[3].weight.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(plain.parameters(), placed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_a_released_network_is_as_it_was():
    model = network()
    layout.place(layout.place(model, CPU), CPU)
    assert len(model[0]._forward_pre_hooks) == 1
    layout.release(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(tensor.is_contiguous() for tensor in model.parameters())


class Viewing(nn.Module):
    """Flattens what a convolution gives by a view, as many tutorials do; with `late`, in training alone."""

    def __init__(self, *, late=False):
        super().__init__()
        self.body, self.fc, self.late = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 16 * 16, 3), late

    def forward(self, images):
        features = self.body(images).relu()
        viewed = self.training or not self.late
        return self.fc(features.view(features.size(0), -1) if viewed else features.flatten(1))


class Volumes(nn.Module):
    """Has a layer for volumes."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Conv3d(1, 2, 3, 2, 1), nn.Linear(2, 3)

    def forward(self, images):
        return self.fc(self.body(images[:, None]).mean((2, 3, 4)))


@pytest.mark.parametrize("make", [Viewing, lambda: Viewing(late=True), Volumes], ids=["view", "late", "volumes"])
def test_a_network_that_does_not_work_channels_last_keeps_the_default_layout(make):
    model = layout.settle(make(), 32)
    assert layout.name_of(model) == "contiguous"
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model.train()(images)  # as it was opened
    placed = layout.place(copy.deepcopy(model), CPU)
    placed(images).sum().backward()
    assert all(tensor.is_contiguous() for tensor in placed.parameters())
    assert layout.name_of(layout.release(placed)) == "contiguous"


def test_a_network_that_works_channels_last_is_left_as_it_is():
    model = network()
    model.insert(1, nn.BatchNorm2d(16))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert layout.name_of(layout.settle(model, 32)) == "channels_last"
    assert not model._forward_pre_hooks
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
