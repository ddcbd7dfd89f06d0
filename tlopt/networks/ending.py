"""What a network answers: which of its outputs counts, and what the numbers mean, by the network's last step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from tlopt.cards.words import AnswerKind
from tlopt.errors import PluginError
from tlopt.judging import are_probabilities

# Steps of autograd by the start of their names. They change the form of answers and not what they mean.
_PASSING = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Alias", "Clone", "ToCopy", "Permute", "Transpose",
            "TBackward", "Slice", "Select")  # fmt: skip
_ENDS: dict[str, AnswerKind] = {
    "SoftmaxBackward": "probabilities", "LogSoftmaxBackward": "log_probabilities", "SigmoidBackward": "sigmoids",
    "HardsigmoidBackward": "sigmoids",
}  # fmt: skip
_SURE = 1e-3  # of a sum of probabilities from 1

WRAP = "Write a function that returns a torch.nn.Module around the network. Its forward returns the logits."

log = logging.getLogger(__name__)
_told: WeakSet[nn.Module] = WeakSet()  # of which networks it was said that one of several outputs is trained


def main_of(answers: Any, model: nn.Module) -> torch.Tensor:
    """Return the logits among what a network answers in training: the first tensor.

    GoogLeNet, Inception and their kind have auxiliary classifiers while they train, whose answers come after.

    Args:
        answers: A tensor, or several in a tuple, a list or a dictionary.
        model: The network. That it answers with several tensors is logged once.
    """
    if isinstance(answers, torch.Tensor):
        return answers
    if model not in _told:
        _told.add(model)
        log.warning(
            "The network returns %s in training. The first tensor is trained on, and the others are not.",
            described(answers),
        )
    several = answers.values() if isinstance(answers, Mapping) else answers if isinstance(answers, tuple | list) else ()
    main = next((answer for answer in several if isinstance(answer, torch.Tensor)), None)
    if main is None:
        raise PluginError(
            f"The network returns {described(answers)} in training, and no tensor of logits.",
            hint=WRAP,
        )
    return main


def described(answers: Any) -> str:
    """Return what a network answers with, in words: "a tuple of 2", "a tensor of shape (1, 8, 7, 7)"."""
    if isinstance(answers, torch.Tensor):
        return f"a tensor of shape {tuple(answers.shape)}"
    if isinstance(answers, tuple | list | Mapping):
        kind = "dictionary" if isinstance(answers, Mapping) else "list" if isinstance(answers, list) else "tuple"
        return f"a {kind} of {len(answers)}"
    return f"an object of the type {type(answers).__name__}"


def kind_of(model: nn.Module, images: torch.Tensor) -> AnswerKind:
    """Return what a network's numbers mean.

    Args:
        model: The network; it stays as it is.
        images: Inputs, float32 (n, 3, h, w), of several kinds; where each answer is a row of probabilities, it may
            be no softmax that makes them.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # A copy: some networks keep what they computed in evaluation mode, such as LeViT's biases.
        copied = copy.deepcopy(model).eval()
        # Parameters may be frozen: the inputs are not. A step of its own lets layers work in place.
        answers = copied(images.clone().requires_grad_() * 1)
    if not isinstance(answers, torch.Tensor) or answers.dim() != 2:
        return "logits"
    step: Any = answers.grad_fn
    while step is not None and type(step).__name__.startswith(_PASSING):
        step = step.next_functions[0][0]
    kind = next((kind for name, kind in _ENDS.items() if type(step).__name__.startswith(name)), None)
    values = answers.detach().float()
    if are_probabilities(values.cpu().numpy(), within=_SURE):
        return "probabilities"
    if kind == "log_probabilities" and bool(((values.exp().sum(1) - 1).abs() <= _SURE).all()):
        return kind
    return "sigmoids" if kind == "sigmoids" else "logits"
