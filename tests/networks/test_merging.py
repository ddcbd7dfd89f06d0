import logging

import pytest
import torch
from torch import nn

from tlopt.networks import merging
from tlopt.sources import timm as source

SIZE = 64


def trained(name):
    """Return a network with norms that are not all alike, in evaluation mode."""
    torch.manual_seed(0)
    model = source.build(name, classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def layers(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "repvit_m0_9"])
def test_branches_are_merged_and_the_answers_stay(name):
    model = trained(name)
    before = layers(model, nn.Conv2d)
    found = merging.merged(model, SIZE)
    assert layers(found, nn.Conv2d) < 0.9 * before
    assert layers(found, nn.BatchNorm2d) <= 1  # RepViT's last one follows no convolution alone
    assert layers(model, nn.Conv2d) == before  # training goes on with the branches
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        wanted = model(images)
        torch.testing.assert_close(found(images), wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))


def test_norms_are_folded_with_their_activations():
    model = trained("test_efficientnet")
    found = merging.merged(model, SIZE)
    assert layers(found, nn.BatchNorm2d) == 0
    assert layers(model, nn.BatchNorm2d) > 5


def test_a_wrong_merge_is_not_taken(caplog):
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, images):
            return self.fc(self.conv(images).mean((2, 3)))

        def reparameterize(self):
            nn.init.zeros_(self.fc.weight)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Wrong()

        def forward(self, images):
            return self.body(images)

    net = Net().eval()
    with caplog.at_level(logging.WARNING):
        found = merging.merged(net, SIZE)
    assert found is net
    assert "The branches of Net stay as they are: merged, they answer otherwise." in caplog.text


def test_no_activation_of_the_copy_overwrites_and_those_of_the_network_do():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6(inplace=True), nn.Flatten(), nn.Linear(144, 2)
    ).eval()
    copy = merging.merged(model, 8)
    assert [module.inplace for module in copy.modules() if hasattr(module, "inplace")] == [False]
    assert [module.inplace for module in model.modules() if hasattr(module, "inplace")] == [True]


class Overwritten(nn.Module):
    """A network whose skip connection reads what an activation function has overwritten."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.activation, self.classifier = nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, images):
        kept = self.norm(self.conv(images))
        return self.classifier((self.activation(kept) * 0.5 + kept).mean((2, 3)))


def test_an_activation_that_has_to_overwrite_goes_on_doing_so():
    model = Overwritten().eval()
    copy = merging.merged(model, 8)
    assert copy is not model
    assert copy.activation.inplace
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(copy(images), model(images))
