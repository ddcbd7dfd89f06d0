"""The linear probe: multinomial logistic regression on a frozen network's features."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tlopt.images.pixels import Pixels
from tlopt.nn import head
from tlopt.nn.inputs import to_inputs
from tlopt.progress import track

log = logging.getLogger(__name__)

# L2 penalties tried, on standardized features, relative to the mean loss of an image.
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A fitted linear classifier.

    Args:
        weight: float32 (classes, features), for features as they leave the network.
        bias: float32 (classes,).
        penalty: The L2 penalty chosen.
        losses: Penalty -> mean cross-entropy in cross-validation.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float
    losses: dict[float, float]

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits, (n, classes), of features."""
        return features @ self.weight.T + self.bias


def features(
    model: nn.Module,
    pixels: Pixels,
    *,
    device: torch.device,
    batch: int = 64,
    label: str = "",
    cache: Path | None = None,
) -> torch.Tensor:
    """Return what enters the classifier for each image's central crop: float32 (n, features).

    Decodes the images on the way if they are not decoded yet.

    Args:
        model: The network; left in evaluation mode.
        pixels: The images.
        device: Where to compute.
        batch: Images per run.
        label: Name of the progress bar.
        cache: Folder in which features are kept for later runs with the same weights and images.
    """
    model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    file = cache / f"{_key(model, pixels, batch)}.npy" if cache is not None else None
    if file is not None and (kept := _read(file)) is not None:
        pixels.filled()
        return kept
    found: list[torch.Tensor] = []
    with torch.inference_mode(), head.features(model) as seen:
        for crops, _ in pixels.fill(batch=batch, label=label):
            model(to_inputs(crops, pixels.preprocess, device))
            found.append(seen[0].float().cpu())
    result = torch.cat(found).clone()
    if file is not None:
        _write(file, result)
    return result


def fit(inputs: torch.Tensor, labels: torch.Tensor, *, classes: int, seed: int = 0) -> Probe:
    """Fit a multinomial logistic regression, its L2 penalty chosen by cross-validation.

    Features are standardized for the fit, and the scaling is folded into the weights.

    Args:
        inputs: float32 (n, features).
        labels: int64 (n,).
        classes: Number of classes.
        seed: Of the folds.
    """
    mean, std = inputs.mean(0), inputs.std(0, correction=0)
    # A feature that never varies says nothing; any scale will do.
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    scaled = (inputs - mean) / std
    losses = _cross_validate(scaled, labels, classes, seed)
    penalty = min(losses, key=lambda value: losses[value]) if losses else 0.03
    weight, bias = _solve(scaled, labels, classes, penalty)
    return Probe(weight=weight / std, bias=bias - weight @ (mean / std), penalty=penalty, losses=losses)


def fold(model: nn.Module, probe: Probe) -> None:
    """Put a probe into the network's classifier, in place."""
    layer = head.find(model)[1]
    with torch.no_grad():
        layer.weight.copy_(probe.weight)
        # nn.Linear declares its bias as a tensor, but a model may have made it without one.
        bias: torch.Tensor | None = layer.bias
        if bias is not None:
            bias.copy_(probe.bias)


def _cross_validate(inputs: torch.Tensor, labels: torch.Tensor, classes: int, seed: int) -> dict[float, float]:
    fold = _folds(labels.numpy(), seed)
    count = int(fold.max()) + 1
    if count < 2:
        return {}
    totals = dict.fromkeys(PENALTIES, 0.0)
    for held in track(range(count), label="Fitting the probe", total=count):
        inside, outside = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        start: tuple[torch.Tensor, torch.Tensor] | None = None
        # From the strongest penalty down, each solution is a good start for the next.
        for penalty in sorted(PENALTIES, reverse=True):
            start = _solve(inputs[inside], labels[inside], classes, penalty, start=start, exact=False)
            logits = inputs[outside] @ start[0].T + start[1]
            totals[penalty] += float(functional.cross_entropy(logits, labels[outside], reduction="sum"))
    return {penalty: total / len(labels) for penalty, total in totals.items()}


def _folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each image, stratified by class; all in fold 0 if a class has one image only."""
    fold = np.zeros(len(labels), np.int64)
    chance = np.random.default_rng(seed)
    counts = np.bincount(labels)
    folds = min(_FOLDS, int(counts[counts > 0].min()))
    for label in np.unique(labels):
        members = chance.permutation(np.flatnonzero(labels == label))
        fold[members] = np.arange(len(members)) % folds
    return fold


def _solve(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    penalty: float,
    *,
    start: tuple[torch.Tensor, torch.Tensor] | None = None,
    exact: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and bias of the least mean cross-entropy + penalty / 2 * |weight|^2, by L-BFGS."""
    weight = start[0].clone() if start else torch.zeros(classes, inputs.shape[1])
    bias = start[1].clone() if start else torch.zeros(classes)
    for tensor in (weight, bias):
        tensor.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=200 if exact else 100,
        tolerance_grad=1e-5 if exact else 1e-4,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(inputs @ weight.T + bias, labels) + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    step: Callable[..., object] = optimizer.step
    step(closure)
    return weight.detach(), bias.detach()


def _key(model: nn.Module, pixels: Pixels, batch: int) -> str:
    about = f"{pixels.key} {pixels.preprocess} {batch} {torch.__version__} {torch.get_num_threads()} {model}"
    state = hashlib.sha256(about.encode())
    classifier = head.find(model)[0]
    for name, tensor in model.state_dict().items():
        if not name.startswith(f"{classifier}."):
            state.update(f"\0{name}{tuple(tensor.shape)}".encode())
            state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()[:32]


def _read(file: Path) -> torch.Tensor | None:
    try:
        kept: torch.Tensor = torch.from_numpy(np.load(file, allow_pickle=False))
    except (OSError, ValueError):
        return None
    os.utime(file)
    return kept


def _write(file: Path, values: torch.Tensor) -> None:
    scratch = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as handle:
            np.save(handle, values.numpy(), allow_pickle=False)
        scratch.replace(file)
    except OSError as error:
        # Only a later run would have gained.
        log.warning("features are not kept: %s", error)
        scratch.unlink(missing_ok=True)
