"""The mean of the weights of several trainings of one network, where it does better than each of them."""

from __future__ import annotations

from dataclasses import replace
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
    import torch

    State = dict[str, torch.Tensor]


@stage(reads="torch", writes="torch")
def soup(
    source: Artifact,
    out: Draft,
    *,
    others: Annotated[tuple[str, ...], Setting("Artifacts of the same network, the better first.")],
    cache: Cache,
) -> Card:
    """Mix the weights of trainings of one network, as long as that does better on validation.

    One after the other joins the mean, and stays in it if the mean is right more often (arXiv 2203.05482, recipe
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
    from tlopt.training.outcome.metrics import summary

    model = open_model(source)
    _, parts = trained_on(source)
    pixels = open_pixels(parts["val"], source.card.preprocess, cache=cache.folder, cache_gb=cache.cache_gb)
    try:
        device = distributed.device()

        def accuracy(state: State) -> float:
            weights.load(model, state)
            logits, labels = predict(model.to(device), pixels, device=device)
            return float((logits.argmax(1) == labels).mean())

        best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        inside, most, joined = 1, accuracy(best), [source.name]
        for other in map(Artifact.load, others):
            state = weights.read(other.payload(".safetensors"))
            if {name: tensor.shape for name, tensor in state.items()} != {n: t.shape for n, t in best.items()}:
                continue
            mixed = _joined(best, state, inside)
            if (found := accuracy(mixed)) > most:
                best, most, inside = mixed, found, inside + 1
                joined.append(other.name)
        weights.load(model, best)
        logits, labels = predict(model.to(device), pixels, device=device)
    finally:
        pixels.close()
    metrics = {"validation": summary(logits, labels, source.card.classes), "mean_of": joined}
    details = replace(TorchDetails(), metrics=plain(metrics))
    return keep(model.to("cpu").eval(), out.folder, replace(source.card, details=details, files={}))


def _joined(mean: State, state: State, inside: int) -> State:
    """Return the mean of `inside` networks with one more in it; what is no float stays as it is."""
    return {
        name: tensor.lerp(state[name].to(tensor.dtype), 1 / (inside + 1)) if tensor.is_floating_point() else tensor
        for name, tensor in mean.items()
    }
