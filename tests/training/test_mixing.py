import numpy as np
import torch

from tlopt.training.augmentation.mixing import mix
from tlopt.training.hyperparameters import Hyperparameters


def case():
    inputs = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16).contiguous()
    return inputs, torch.eye(4)


def test_without_mixing_nothing_changes():
    inputs, targets = case()
    mixed, soft = mix(inputs, targets, Hyperparameters(), np.random.default_rng(0))
    assert mixed is inputs
    assert soft is targets


def test_mixup_blends_images_and_targets_alike():
    inputs, targets = case()
    mixed, soft = mix(inputs, targets, Hyperparameters(mixup=1.0), np.random.default_rng(0))
    share = soft[0, 0]
    torch.testing.assert_close(mixed[0, 0, 0, 0], share * 0 + (1 - share) * 3)
    torch.testing.assert_close(soft.sum(1), torch.ones(4))


def test_cutmix_gives_targets_the_share_of_the_pixels():
    for seed in range(5):
        inputs, targets = case()
        mixed, soft = mix(inputs, targets, Hyperparameters(cutmix=1.0), np.random.default_rng(seed))
        torch.testing.assert_close((mixed[0, 0] == 0).float().mean(), soft[0, 0])
        torch.testing.assert_close((mixed[0, 0] == 3).float().mean(), soft[0, 3])
