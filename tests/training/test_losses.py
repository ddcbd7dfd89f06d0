import pytest
import torch
from torch.nn import functional

from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.optimization import losses

CPU = torch.device("cpu")


@pytest.fixture
def case():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 0])
    return logits, labels, functional.one_hot(labels, 4).float()


def test_cross_entropy_is_that_of_torch(case):
    logits, labels, targets = case
    torch.testing.assert_close(losses.cross_entropy(logits, targets), functional.cross_entropy(logits, labels))


def test_smoothing_is_that_of_torch(case):
    logits, labels, targets = case
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(losses.cross_entropy(logits, losses.smooth(targets, 0.1)), expected)


def test_the_focal_loss_without_focus_is_cross_entropy(case):
    logits, _, targets = case
    plain = losses.cross_entropy(logits, targets)
    torch.testing.assert_close(losses.focal(logits, targets, gamma=0.0), plain)
    assert losses.focal(logits, targets, gamma=2.0) < plain


def test_class_balance_favours_rare_classes():
    weights = losses.class_balance(torch.tensor([1000.0, 10.0]))
    # (1 - 0.999) / (1 - 0.999 ** n), scaled to mean 1.
    rare, common = 0.001 / (1 - 0.999**10), 0.001 / (1 - 0.999**1000)
    expected = torch.tensor([common, rare]) * 2 / (common + rare)
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=0)


def test_logit_adjustment_adds_the_log_of_the_prior(case):
    logits, labels, targets = case
    loss = losses.make(Hyperparameters(loss="logit-adjusted"), [3, 1, 1, 1], CPU)
    prior = torch.tensor([3, 1, 1, 1]).div(6).log()
    torch.testing.assert_close(loss(logits, targets), functional.cross_entropy(logits + prior, labels))


def test_binary_cross_entropy_asks_one_question_per_class(case):
    logits, _, targets = case
    expected = functional.binary_cross_entropy_with_logits(logits, targets) * 4
    torch.testing.assert_close(losses.binary_cross_entropy(logits, targets), expected)


def test_distillation_is_zero_for_the_teachers_own_answers(case):
    logits, _, _ = case
    assert losses.distillation(logits, logits, temperature=3.0).abs() < 1e-6
    assert losses.distillation(logits, -logits, temperature=3.0) > 0.1


@pytest.mark.parametrize("name", ["cross-entropy", "focal", "class-balanced", "logit-adjusted", "bce"])
def test_every_loss_falls_as_the_right_logit_rises(case, name):
    _, _, targets = case
    loss = losses.make(Hyperparameters(loss=name), [3, 1, 1, 1], CPU)
    assert loss(5 * targets, targets) < loss(targets, targets) < loss(-targets, targets)
