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
