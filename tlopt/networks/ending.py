"""What the numbers mean that a network answers, by its last step: logits, or probabilities already."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from tlopt.cards.words import AnswerKind
from tlopt.judging import are_probabilities

# Steps of autograd by the start of their names. They change the form of answers and not what they mean.
_PASSING = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Alias", "Clone", "ToCopy", "Permute", "Transpose",
            "TBackward", "Slice", "Select")  # fmt: skip
_ENDS: dict[str, AnswerKind] = {
    "SoftmaxBackward": "probabilities", "LogSoftmaxBackward": "log_probabilities", "SigmoidBackward": "sigmoids",
    "HardsigmoidBackward": "sigmoids",
}  # fmt: skip
_SURE = 1e-3  # of a sum of probabilities from 1


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
