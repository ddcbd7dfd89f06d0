import copy

import pytest
import torch
from torch import nn

from tlopt.pruning import norms


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.Flatten()
    )
    for norm in (net[1], net[4]):
        # The statistics of other images than those below.
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.2, 3)
        nn.init.uniform_(norm.weight, 0.5, 2)
    return net.eval()


@pytest.fixture
def images():
    return torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 + 0.5


def test_rebasing_changes_no_answer(model, images):
    before = model(images)
    norms.rebase(model, images.split(16))
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)


def test_after_rebasing_the_statistics_are_those_of_the_images(model, images):
    norms.rebase(model, images.split(16))
    values = model[0](images)
    torch.testing.assert_close(model[1].running_mean, values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, values.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)


def test_recalibration_after_rebasing_restores_each_channels_mean_and_variance(model, images):
    wanted = model[:2](images)
    norms.rebase(model, images.split(64))
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged[0].weight *= 0.5
        damaged[0].bias += 3
    norms.recalibrate(damaged, images.split(64))
    found = damaged[:2](images)
    torch.testing.assert_close(found.mean((0, 2, 3)), wanted.mean((0, 2, 3)), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(found.std((0, 2, 3)), wanted.std((0, 2, 3)), rtol=1e-2, atol=1e-3)


def test_a_channel_that_stands_still_on_the_images_keeps_its_variance(model, images):
    with torch.no_grad():
        model[0].weight[2] = 0  # one that lost all its inputs
        model[0].weight[3] *= 1e-4
    before = model[1].running_var.clone()
    norms.recalibrate(model, images.split(16))
    torch.testing.assert_close(model[1].running_var[[2, 3]], before[[2, 3]])
    torch.testing.assert_close(model[1].running_mean[2], model[0].bias[2])
    assert not torch.isclose(model[1].running_var, before)[[0, 1, 4, 5]].any()


def test_recalibration_changes_nothing_but_statistics(model, images):
    before = copy.deepcopy(model.state_dict())
    norms.recalibrate(model, images.split(16))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= {f"{i}.{key}" for i in (1, 4) for key in ("running_mean", "running_var", "num_batches_tracked")}
    assert model[1].momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_a_network_without_batch_norm_is_left_alone(images):
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten())
    before = copy.deepcopy(model.state_dict())
    norms.rebase(model, [images])
    norms.recalibrate(model, [images])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
