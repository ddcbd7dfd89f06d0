"""Images without labels, of which those that a network is sure of take part in training.

The probabilities of its answers stand for their labels (soft pseudo-labels, as in Noisy Student, arXiv 1911.04252).
Answers are given to the central crop, and learned from random crops (FixMatch, arXiv 2001.07685).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tlopt.images.pixels import Pixels
from tlopt.networks import head, layout
from tlopt.training import distributed, joining
from tlopt.training.inputs import to_inputs
from tlopt.training.loop import Teacher
from tlopt.training.methods import probe
from tlopt.training.unlabelled import Unlabelled

log = logging.getLogger(__name__)

_BATCH = 64


@dataclass(kw_only=True)
class Pool:
    """The images, and what is needed to answer for them.

    Args:
        pixels: Decoded on the way if they are not yet.
        about: Where they are from.
        teacher: Answers for them; None if the classifier of the network does, before all layers train.
    """

    pixels: Pixels
    about: Unlabelled
    teacher: Teacher | None = None
    _seen: torch.Tensor | None = field(init=False, default=None, repr=False)

    def look(self, model: nn.Module, *, cache: Path | None) -> None:
        """Compute once what answers are made of: those of the teacher, or features of the network as it is now.

        Args:
            model: The network, with layers as they are when it answers; its classifier may still change.
            cache: Folder in which features are kept for later runs.
        """
        device, label = distributed.device(), "Looking at unlabelled images"
        with distributed.leader_first():
            if self.teacher is None:
                self._seen, _ = probe.features(model, self.pixels, device=device, label=label, cache=cache)
            else:
                self._seen = _answers(self.teacher, self.pixels, device, label)

    def sure(self, model: nn.Module) -> Pixels | None:
        """Return the images with a confident answer, with all answers as probabilities; None if there are none.

        Args:
            model: The network, whose classifier answers where there is no teacher. Its other layers are not asked.
        """
        assert self._seen is not None, "nobody looked at the images"
        logits = self._seen if self.teacher is not None else head.find(model.to("cpu")).answers(self._seen)
        shares = distributed.shared(functional.softmax(logits.float(), dim=1)).numpy()
        rows = np.flatnonzero(shares.max(1) >= self.about.confidence)
        if not len(rows):
            log.warning(
                "No answer to the %d images without labels has a confidence of %g, so that none takes part. "
                "--unlabelled-confidence lowers it.", len(shares), self.about.confidence,
            )  # fmt: skip
            return None
        found = self.pixels.part(self.pixels.kept[rows])
        found.answers = shares[rows]
        found.folder = found.folder.labelled(shares[rows].argmax(1).astype(np.int64), found.folder.classes)
        return found

    def record(self, found: Pixels | None, labels: np.ndarray) -> dict[str, Any]:
        """Return what the card says, as JSON types.

        Args:
            found: What `sure` returned.
            labels: int64 (n,), of the labelled images.
        """
        none = dict.fromkeys(self.pixels.folder.classes, 0)
        return {
            "images": self.about.found,
            "left_out": {**self.about.left_out, "unreadable": len(self.pixels.unreadable.reasons)},
            "answers": "classifier" if self.teacher is None else "teacher",
            "confidence": self.about.confidence,
            "kept": 0 if found is None else len(found.folder),
            "kept_per_class": none if found is None else found.folder.counts,
            "labelled": len(labels),
            "images_per_epoch": joining.length(labels, found),
        }


def _answers(teacher: Teacher, pixels: Pixels, device: torch.device, label: str) -> torch.Tensor:
    """Return a teacher's logits for the central crops of all readable images, float32 (n, classes)."""
    if isinstance(teacher, nn.Module):
        layout.place(teacher, device).eval()
    logits = []
    with torch.inference_mode():
        for crops, _ in pixels.fill(batch=_BATCH, label=label):
            logits.append(teacher(to_inputs(crops, pixels.preprocess, device)).float().cpu())
    return torch.cat(logits)
