from __future__ import annotations

import pytest
import torch
from torch import nn

from tlopt.training.adaptation import adapt_norms, batch_norms


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)).eval()


def test_without_a_prior_the_first_norm_has_the_statistics_of_the_images():
    model, images = network(), torch.randn(12, 3, 8, 8) * 3 + 1
    with torch.inference_mode():
        rows = model[0](images).transpose(0, 1).flatten(1)
    adapt_norms(model, images.split(5), prior=0)
    torch.testing.assert_close(model[1].running_mean, rows.mean(1))
    torch.testing.assert_close(model[1].running_var, rows.var(1, correction=0))


def test_later_norms_are_measured_on_what_earlier_ones_give_them():
    model, images = network(), torch.randn(12, 3, 8, 8) * 3 + 1
    adapt_norms(model, [images], prior=0)
    with torch.inference_mode():
        found = model(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean(1), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.var(1, correction=0), torch.ones(2), atol=1e-2, rtol=0)


def test_the_own_statistics_count_as_many_images_as_is_said():
    model, images = network(), torch.randn(12, 3, 8, 8)
    own = model[1].running_mean.clone()
    alone = network()
    adapt_norms(alone, [images], prior=0)
    adapt_norms(model, [images], prior=36)
    torch.testing.assert_close(model[1].running_mean, 0.75 * own + 0.25 * alone[1].running_mean)


def test_images_like_those_of_training_move_nothing():
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    torch.manual_seed(0)
    moved = adapt_norms(model, [torch.randn(64, 3, 16, 16)], prior=0)
    assert moved < 0.02


def test_large_means_are_no_loss_of_precision():
    model, images = nn.Sequential(nn.BatchNorm2d(1)).eval(), torch.randn(8, 1, 16, 16).double()
    with torch.no_grad():
        model[0].running_mean += 1e5
    adapt_norms(model, [images.float() + 1e5], prior=0)
    assert model[0].running_var.item() == pytest.approx(images.var(correction=0).item(), rel=0.05)


def test_norms_without_statistics_are_left_out():
    assert batch_norms(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3))) == []


def test_a_network_that_was_trained_with_frozen_statistics_keeps_its_answers_on_the_images_of_training():
    model, images = network(), torch.randn(40, 3, 8, 8) * 3 + 1  # its statistics are of other images
    with torch.inference_mode():
        wanted = model(images)
        adapt_norms(model, [images], prior=0, training=images.split(8))
        torch.testing.assert_close(model(images), wanted, atol=1e-3, rtol=0)


def test_what_another_camera_does_to_the_first_layer_is_undone():
    model, images = network(), torch.randn(200, 3, 8, 8) * 3 + 1
    with torch.inference_mode():
        wanted = model(images)
        darker = images / 4 - 2
        far = (model(darker) - wanted).abs().mean()
        adapt_norms(model, darker.split(50), prior=0, training=images.split(50))
        near = (model(darker) - wanted).abs().mean()
    assert near < 0.1 * far
