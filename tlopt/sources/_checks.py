"""Whether a network is one that can be worked with: found out by running it, before any expensive work."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tlopt.errors import PluginError
from tlopt.networks import ending
from tlopt.reading.names import shown_name

SAME = 1e-2  # of the logits' spread: kernels may add up in another order, other weights are another network


def check(name: str, module: nn.Module, size: int, *, own: bool) -> None:
    """Run a network in evaluation: some take images of one size only, or are no classifiers.

    Args:
        name: ``source:name``, for messages.
        module: The network.
        size: Side of the square input, pixels.
        own: Whether the size is the network's own.

    Raises:
        PluginError: It does not run, answers with anything but a finite number for each class, or otherwise each time.
    """
    training = module.training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # what it keeps may be trained later
            answers: Any = module.eval()(torch.zeros(1, 3, size, size))
            _expect_row(name, answers)
            image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
            first, second = module(image), module(image)
    except (MemoryError, PluginError):
        raise
    except Exception as error:  # what a network's own code runs into has no common type
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise PluginError(
            f"The network {shown_name(name)} does not run on images of {size} px: {reason}",
            hint="Look at its code." if own else "Leave out the image size: the network was made for one.",
        ) from error
    finally:
        module.train(training)
    _expect_finite(name, module, first)
    difference = float((second - first).abs().max() / first.std(correction=0).clamp(min=1e-6))
    if difference > SAME:
        raise PluginError(
            f"The network {shown_name(name)} answers the same image differently each time: logits differ by "
            f"{difference:.2g} of their spread.",
            hint="It draws random numbers in evaluation, too. F.dropout, for one, needs training=self.training.",
        )


def _expect_row(name: str, answers: Any) -> None:
    if not isinstance(answers, torch.Tensor) or answers.dim() != 2 or len(answers) != 1:
        raise PluginError(
            f"The network {shown_name(name)} must return one tensor of the shape (images, classes). "
            f"For one image it returned {ending.described(answers)}.",
            hint=ending.WRAP,
        )


def _expect_finite(name: str, module: nn.Module, answers: torch.Tensor) -> None:
    if torch.isfinite(answers).all():
        return
    why, hint = "", "Look at its code, and at where its weights come from."
    for place, tensor in module.state_dict().items():
        if place.endswith("running_var") and bool((tensor < 0).any()):
            why = f": {shown_name(place)} holds negative variances, down to {float(tensor.min()):.3g}"
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            why = f": {shown_name(place)} holds some itself"
        if why:
            hint = "Its weights are damaged: take them from where they were made once more."
            break
    raise PluginError(
        f"The network {shown_name(name)} answers with numbers that are not finite (NaN or infinity){why}.", hint=hint
    )
