import copy

import pytest
import torch
from torch import nn

from tlopt.networks import folding
from tlopt.sources import timm as source

FAMILIES = ("resnet10t", "mobilenetv3_small_050", "efficientnet_lite0", "regnetx_002")


def gradients(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(images).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def randomized(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_and_gradients_are_those_of_the_network_as_it_was(name: str) -> None:
    model = randomized(source.build(name, classes=5)).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected, answers = gradients(model, images), model(images)
    keys = list(model.state_dict())
    with folding.folded(model, images) as count:
        assert count > 5
        assert list(model.state_dict()) == keys
        torch.testing.assert_close(model(images), answers)
        found = gradients(model, images)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_norm_in_training_mode_works_as_ever() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    plain = copy.deepcopy(model)
    images = torch.randn(8, 3, 9, 9)
    with folding.folded(model, images[:1]) as count:
        assert count == 1
        model.train()
        torch.testing.assert_close(model(images), plain(images))
    torch.testing.assert_close(model[1].running_mean, plain[1].running_mean)


def test_nothing_is_folded_where_the_convolution_serves_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(x)
            return y + self.norm(y)

    model = randomized(Twice())
    with folding.folded(model, torch.randn(1, 3, 9, 9)) as count:
        assert count == 0


def test_modes_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[1].training = False
    with folding.folded(model, torch.randn(1, 3, 9, 9)):
        assert [module.training for module in model] == [True, False, True]


def test_answers_are_compared_without_the_rounding_of_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = []

    class Watched(nn.Sequential):
        def forward(self, images):
            seen.append(torch.backends.cudnn.allow_tf32)
            return super().forward(images)

    network = Watched(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with folding.folded(network, torch.ones(1, 3, 8, 8)) as count:
        assert count == 1
    assert set(seen) == {False}
    assert torch.backends.cudnn.allow_tf32
