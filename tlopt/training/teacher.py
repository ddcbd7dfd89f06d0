"""A teacher for distillation: any network or runner, fed with what its student is fed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tlopt.artifact import Artifact
from tlopt.errors import ArtifactError, SettingError
from tlopt.judging import as_logits
from tlopt.preprocess import Preprocess
from tlopt.sources import open_model
from tlopt.training.network import check_logits

Answers = Callable[[np.ndarray], np.ndarray]


_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts to grey


class Teacher(nn.Module):
    """Answers to a student's inputs, whatever size and normalization it was itself trained with.

    Args:
        answer: A network, or a function from the array that `Preprocess.normalize` gives to logits.
        own: The teacher's preprocessing.
        student: The student's.
    """

    def __init__(self, answer: nn.Module | Answers, *, own: Preprocess, student: Preprocess) -> None:
        super().__init__()
        self.network = answer if isinstance(answer, nn.Module) else None
        self._answer = answer
        self._own, self._student = own, student
        self._same = all(
            getattr(own, name) == getattr(student, name) for name in ("sides", "mean", "std", "channels", "folded")
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits, (n, classes), for the student's inputs, float32 (n, 3, size, size)."""
        fed = inputs if self._same else self._translated(inputs)
        if self.network is not None:
            logits: torch.Tensor = self.network(fed)
            return logits
        if self._own.folded:
            array = fed.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        else:
            array = fed.permute(0, 2, 3, 1).contiguous() if self._own.layout == "nhwc" else fed.contiguous()
        # A runner computes in its own precision, whatever the student's forward pass is in.
        with torch.autocast(inputs.device.type, enabled=False):
            return torch.from_numpy(np.asarray(self._answer(array.cpu().numpy()))).to(inputs.device)

    def _translated(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the inputs as the teacher's own preprocessing would have made them."""
        scale, shift = (torch.from_numpy(v).to(inputs.device)[:, None, None] for v in self._student.affine())
        pixels = (inputs - shift) / scale
        if self._student.channels == "bgr":
            pixels = pixels.flip(1)
        if self._own.channels == "grey":
            pixels = (pixels * pixels.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
        elif self._own.channels == "bgr":
            pixels = pixels.flip(1)
        if (sides := self._own.sides) != self._student.sides:
            pixels = functional.interpolate(pixels, sides, mode="bilinear", align_corners=False, antialias=True)
        if self._own.folded:
            return pixels
        scale, shift = (torch.from_numpy(v).to(inputs.device)[:, None, None] for v in self._own.affine())
        return pixels * scale + shift


@contextlib.contextmanager
def open_teacher(
    path: Path,
    *,
    classes: tuple[str, ...],
    student: Preprocess,
    features: bool,
    runner: Callable[[Artifact], AbstractContextManager[Answers]],
) -> Iterator[Teacher]:
    """Open a teacher: a torch artifact as a network, which also shows its features, others as runners.

    Args:
        path: The artifact.
        classes: Of the images.
        student: How the student's images are preprocessed.
        features: Whether its features are wanted.
        runner: Opens an artifact that is no network.

    Raises:
        ArtifactError: It knows other classes.
        SettingError: Its features are wanted, and it shows none.
        StageError: Its features are wanted, and it answers with probabilities.
    """
    artifact = Artifact.load(path).expect_classifier("A teacher")
    card = artifact.card
    if card.classes != classes:
        raise ArtifactError(
            f"The teacher {path} knows {len(card.classes)} classes, first {card.classes[0]!r}; "
            f"the images have {len(classes)}, first {classes[0]!r}.",
            hint="A teacher must know exactly the classes of the images.",
        )
    if card.kind != "torch" and features:
        raise SettingError(
            f"Only torch artifacts give features; {path} is of kind {card.kind}.",
            hint="Leave out --teacher-features, or name the torch artifact that it was made from.",
        )
    if features:
        check_logits(card.model, card.answers)
    with contextlib.ExitStack() as stack:
        if card.kind == "torch" and (features or card.answers == "logits"):
            yield Teacher(open_model(artifact), own=card.preprocess, student=student)
            return
        answer = stack.enter_context(runner(artifact))
        # What is learned from is a softmax of logits, softened by a temperature.
        yield Teacher(lambda inputs: as_logits(answer(inputs), card.answers), own=card.preprocess, student=student)
