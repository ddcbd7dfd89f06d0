from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tlopt.pruning import analysis, gates


class Net(nn.Module):
    """A residual block and a classifier, without batch norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 5, 1)
        self.outer = nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x = x + self.outer(torch.tanh(self.inner(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().double().eval()


def run(model, objective, images=5):
    torch.manual_seed(1)
    batch = torch.randn(images, 3, 4, 4, dtype=torch.double), torch.arange(images) % 3
    network = analysis.analyze(model.float(), 4)
    model.double()
    return batch, gates.measure(model, network.groups, [batch], objective, seed=0)


def test_a_gate_is_the_derivative_of_scaling_its_channel_wherever_it_is_taken_in(model):
    (images, labels), groups = run(model, "labels")
    residual = next(group for group in groups if group.units == 6)
    for unit in range(6):
        # The reference: a central difference of the loss when the weights that take the channel in are scaled.
        losses = []
        for factor in (1 + 1e-4, 1 - 1e-4):
            with torch.no_grad():
                for layer in (model.inner, model.head):
                    layer.weight[:, unit] *= factor
                losses.append(functional.cross_entropy(model(images), labels, reduction="none"))
                for layer in (model.inner, model.head):
                    layer.weight[:, unit] /= factor
        expected = (losses[0] - losses[1]) / 2e-4
        # The error of a central difference is of the order of the step squared.
        torch.testing.assert_close(residual.gates[:, unit].double(), expected, rtol=1e-4, atol=1e-6)


class Parts(Net):
    """Its inner layers are given the rows of an image one by one, or all of a batch as one."""

    def __init__(self, whole: bool):
        super().__init__()
        self.whole = whole

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        images, channels, height, width = x.shape
        if self.whole:
            x = x.permute(1, 0, 2, 3).reshape(1, channels, images * height, width)
        else:
            x = x.permute(0, 2, 1, 3).reshape(images * height, channels, 1, width)
        x = x + self.outer(torch.tanh(self.inner(x)))
        if self.whole:
            x = x.reshape(channels, images, height, width).permute(1, 0, 2, 3)
        else:
            x = x.reshape(images, height, channels, width).permute(0, 2, 1, 3)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("whole", [False, True])
def test_a_layer_may_be_given_parts_of_images_as_rows(model, whole):
    other = Parts(whole).double().eval()
    other.load_state_dict(model.state_dict())
    batch = torch.randn(5, 3, 4, 4, dtype=torch.double), torch.arange(5) % 3
    inner = next(group for group in analysis.analyze(model.float(), 4).groups if group.units == 5)
    expected = gates.measure(model.double(), [inner], [batch], "labels", seed=0)[0].gates
    found = gates.measure(other, [on(other, inner)], [batch], "labels", seed=0)[0].gates
    torch.testing.assert_close(found.sum(0), expected.sum(0))
    if not whole:
        torch.testing.assert_close(found, expected)


def on(model, group):
    """Return a group with the layers of another network of the same names."""
    layers = dict(model.named_modules())
    return replace(group, members=tuple(replace(one, target=layers[one.name]) for one in group.members))


def test_the_mean_square_of_the_outputs_gates_estimates_the_change_of_the_logits(model):
    images = torch.randn(1, 3, 4, 4, dtype=torch.double)
    network = analysis.analyze(model.float(), 4)
    model.double()
    batch = images.expand(4000, -1, -1, -1), torch.zeros(4000, dtype=torch.int64)
    found = next(g for g in gates.measure(model, network.groups, [batch], "outputs", seed=0) if g.units == 5)
    step = 1e-4
    with torch.no_grad():
        before = model(images)
        model.outer.weight[:, 2] *= 1 + step
        change = (model(images) - before)[0] / step
    centred = change - change.mean()
    # 4,000 random signs: the standard error of a mean of squares is about 2 %.
    assert found.gates[:, 2].square().mean().item() == pytest.approx(centred.square().sum().item(), rel=0.1)


def test_ranking_leaves_the_network_as_it_was(model):
    model.train()
    run(model, "outputs")
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
