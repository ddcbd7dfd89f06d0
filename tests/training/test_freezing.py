import pytest
import torch
from torch import nn

from tlopt import sources
from tlopt.errors import PluginError
from tlopt.networks import head
from tlopt.training import freezing
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.optimization import optimizers


def test_stages_run_from_the_input_to_the_classifier(net):
    # The body holds most of the weights, so its own layers count, a norm with the layer before it.
    assert freezing.stages(net) == [[net.stem], [net.body[0], net.body[1]], [net.fc]]


@pytest.mark.parametrize(
    "name", ["timm:test_efficientnet", "timm:resnet18", "timm:mobilenetv2_100", "torchvision:mobilenet_v2"]
)
def test_every_parameter_lies_in_one_stage_and_depth_rises(name):
    model = sources.build(name, classes=3, size=32)
    place = freezing.parameter_stages(model)
    assert set(place) == {n for n, _ in model.named_parameters()}
    assert list(place.values()) == sorted(place.values())
    assert max(place.values()) >= 4
    classifier = head.find(model)
    assert {n for n, stage in place.items() if stage == max(place.values())} == {
        n for n in place if classifier.holds(n)
    }


def test_freezing_stops_gradients_below(net):
    freezing.freeze(net, below=1)
    assert not any(p.requires_grad for p in net.stem.parameters())
    assert all(p.requires_grad for p in net.fc.parameters())


def test_gradual_training_reaches_every_stage_by_half_time(net):
    first = [freezing.first_trained(net, moves="gradual", frozen_stages=0, epoch=epoch, epochs=8) for epoch in range(8)]
    assert first[0] == len(freezing.stages(net)) - 1
    assert first == sorted(first, reverse=True)
    assert first[4:] == [0, 0, 0, 0]


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(PluginError, match="no linear layer"):
        head.find(nn.Sequential(nn.Conv2d(3, 4, 1)))


def test_learning_rates_fall_with_depth_and_norms_have_no_decay(net):
    settings = Hyperparameters(lr=1.0, backbone_lr=0.5, layer_decay=0.1, weight_decay=0.3)
    optimizer = optimizers.make(net, settings)
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert scale[id(net.fc.weight)] == 1.0
    assert scale[id(net.body[0].weight)] == pytest.approx(0.5)
    assert scale[id(net.stem[0].weight)] == pytest.approx(0.05)
    assert decay[id(net.fc.weight)] == 0.3
    assert decay[id(net.fc.bias)] == decay[id(net.body[1].weight)] == 0
    assert len(scale) == len(list(net.parameters()))


def test_the_rate_rises_then_falls_to_nearly_nothing():
    settings = Hyperparameters(lr=2.0, warmup=0.1)
    rates = [optimizers.rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.002
    constant = Hyperparameters(lr=2.0, warmup=0.1, schedule="constant")
    assert optimizers.rate(constant, 99, 100) == 2.0


def test_an_unknown_optimizer_gets_its_close_match():
    with pytest.raises(PluginError, match="Unknown optimizer: 'adamv'") as caught:
        optimizers.check("adamv")
    assert "adam" in caught.value.hint


def test_frozen_norms_stay_in_evaluation_mode():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    freezing.set_mode(model, below=0, frozen_norm=True)
    assert not model[1].training
    freezing.set_mode(model, below=0, frozen_norm=False)
    assert model[1].training
    assert isinstance(model(torch.zeros(2, 3, 1, 1)), torch.Tensor)
