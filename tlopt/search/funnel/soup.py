"""The mean of the weights of several trainings of one network, where it does better than each of them."""

from __future__ import annotations

import operator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tlopt.artifact import Artifact
from tlopt.cards.card import Card, plain
from tlopt.cards.details import TorchDetails
from tlopt.images.cache import Cache
from tlopt.images.of_artifact import trained_on
from tlopt.publishing import Draft
from tlopt.settings import Setting
from tlopt.stages import stage

if TYPE_CHECKING:
    from tlopt.training.methods.soup import Weights


@stage(reads="torch", writes="torch")
def soup(
    source: Artifact,
    out: Draft,
    *,
    names: Annotated[tuple[str, ...], Setting("What the artifact and the others are called.")],
    others: Annotated[tuple[str, ...], Setting("Artifacts of the same network, the better first.", passing=True)],
    images: Annotated[Path | None, Setting("Folder of the training images, if they were moved.")] = None,
    cache: Cache,
) -> Card:
    """Mix the weights of trainings of one network, as long as that does better on validation.

    One after the other joins the mean, and stays in it if the mean is right as often (arXiv 2203.05482, recipe
    "greedy soup"). All are judged with the input size of the first.

    Raises:
        ArtifactError: Another artifact is damaged.
        ImagesError: The training images are gone or have changed.
    """
    from tlopt.images.opening import open_pixels
    from tlopt.networks import weights
    from tlopt.sources import keep, open_model
    from tlopt.training import distributed
    from tlopt.training.inputs import predict
    from tlopt.training.methods.soup import greedy
    from tlopt.training.outcome.metrics import summary
    from tlopt.training.outcome.temperature import calibrated_loss

    model = open_model(source)
    _, parts = trained_on(source, images)
    pixels = open_pixels(parts["val"], source.card.preprocess, cache=cache.folder, cache_gb=cache.cache_gb)
    try:
        device = distributed.device()

        def accuracy(state: Weights) -> float:
            weights.load(model, state)
            logits, labels = predict(model.to(device), pixels, device=device)
            return float((logits.argmax(1) == labels).mean())

        first = weights.snapshot(model)
        opened = [weights.read(other.payload(".safetensors")) for other in map(Artifact.load, others)]
        joining = [(name, one) for name, one in zip(names, [first, *opened], strict=True) if _fits(one, first)]
        used, _, best = greedy([state for _, state in joining], accuracy, operator.le)
        weights.load(model, best)
        logits, labels = predict(model.to(device), pixels, device=device)
    finally:
        pixels.close()
    metrics = {
        "validation": summary(logits, labels, source.card.classes),
        "loss": calibrated_loss(logits, labels),
        "mean_of": [joining[n][0] for n in used],
    }
    details = replace(TorchDetails(), metrics=plain(metrics))
    return keep(model.to("cpu").eval(), out.folder, replace(source.card, details=details, files={}))


def _fits(state: Weights, first: Weights) -> bool:
    return {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in first.items()}
