from __future__ import annotations

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
