"""The linear probe: multinomial logistic regression on a frozen network's features."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tlopt.images.pixels import Pixels
from tlopt.images.store import checksum
from tlopt.networks import head, layout
from tlopt.progress import track
from tlopt.publishing import write_whole
from tlopt.reading.files import open_regular
from tlopt.training.inputs import answering, of_one_size, to_inputs

log = logging.getLogger(__name__)

# L2 penalties tried, on standardized features, relative to the mean loss of an image.
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
FOLDS = 5
_CHECKSUM = 4  # bytes at the end of such a file
_COMPARED = 20_000  # images that choose the penalty; more would take memory and say the same


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A fitted linear classifier.

    Args:
        weight: float32 (classes, features), for features as they leave the network.
        bias: float32 (classes,).
        penalty: The L2 penalty chosen.
        losses: Penalty -> mean cross-entropy in cross-validation.
        reach: Twice the lowest logit of what it was fitted to, without its sign; 0 if none is negative.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float
    losses: dict[float, float]
    reach: float = 0.0

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
    positions: np.ndarray | None = None,
) -> tuple[torch.Tensor, np.ndarray]:
    """Return what enters the classifier for each readable image's central crop, and the labels.

    Decodes the images on the way if they are not decoded yet.

    Args:
        model: The network; left in evaluation mode.
        pixels: The images.
        device: Where to compute.
        batch: Images per run.
        label: Name of the progress bar.
        cache: Folder in which features are kept for later runs with the same weights and images.
        positions: Only these images, int64 (m,), positions in the folder.

    Returns:
        float32 (n, features) and int64 (n,).
    """
    layout.place(model.eval(), device)
    key = _key(model, pixels, device, batch, positions) if cache is not None else ""
    file = cache / f"{key}.npz" if cache is not None else None
    kept = _read(file) if file is not None else None
    if kept is not None and _still(model, pixels, device, batch, positions, kept[0]):
        if positions is None:
            pixels.filled()
        return kept
    # One tensor from the start: a list of batches joined at the end would take the memory twice.
    found = torch.empty(0)
    labels: list[np.ndarray] = []
    done, most = 0, len(pixels) if positions is None else len(positions)
    with answering(model, pixels.preprocess, device), head.features(model) as seen:
        for crops, truth in pixels.fill(batch=batch, label=label, positions=positions):
            model(to_inputs(of_one_size(crops, batch, device), pixels.preprocess, device))
            if not done:
                found = torch.empty(most, seen[0].shape[1])
            found[done : done + len(truth)] = seen[0][: len(truth)]
            done += len(truth)
            labels.append(truth)
    result = found[:done].clone() if done < most else found, np.concatenate(labels)
    if file is not None:
        _write(file, *result)
    return result


def _still(
    model: nn.Module, pixels: Pixels, device: torch.device, batch: int, positions: np.ndarray | None, kept: torch.Tensor
) -> bool:
    """Whether the network still gives the first batch the features that were kept: its code may have changed."""
    some = np.arange(len(pixels.folder)) if positions is None else positions
    with answering(model, pixels.preprocess, device), head.features(model) as seen:
        for crops, _ in pixels.fill(batch=batch, label="Comparing features", positions=some[:batch]):
            model(to_inputs(of_one_size(crops, batch, device), pixels.preprocess, device))
            now = seen[0][: len(crops)].cpu()
            return len(now) <= len(kept) and torch.allclose(now, kept[: len(now)], rtol=1e-3, atol=1e-4)
    return True


def chosen(labels: np.ndarray, most: int, *, seed: int) -> np.ndarray | None:
    """Return the positions of at most about `most` images, drawn by class; None for all of them.

    Each class gives the same share of its images, and at least four of them if it has so many.

    Args:
        labels: int64 (n,).
        most: Number of images.
        seed: Of the draw.
    """
    if len(labels) <= most:
        return None
    chance = np.random.default_rng(seed)
    taken = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        taken.append(chance.permutation(members)[: max(4, round(most * len(members) / len(labels)))])
    return np.sort(np.concatenate(taken))


def fit(inputs: torch.Tensor, labels: torch.Tensor, *, classes: int, seed: int = 0, bias: bool = True) -> Probe:
    """Fit a multinomial logistic regression, its L2 penalty chosen by cross-validation.

    Features are standardized for the fit, and the scaling is folded into the weights.

    Args:
        inputs: float32 (n, features).
        labels: int64 (n,).
        classes: Number of classes.
        seed: Of the folds.
        bias: Fit one, too; a classifier without it has no place for what centering the features takes away.
    """
    mean, std = inputs.mean(0) if bias else torch.zeros(inputs.shape[1]), inputs.std(0, correction=0)
    # A feature that never varies says nothing; any scale will do.
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    scaled = (inputs - mean).div_(std)
    some = chosen(labels.numpy(), _COMPARED, seed=seed)
    compared = (scaled, labels) if some is None else (scaled[some], labels[some])
    losses = _cross_validate(*compared, classes, seed, bias=bias)
    penalty = min(losses, key=lambda value: losses[value]) if losses else 0.03
    weight, shift = solve(scaled, labels, classes, penalty, bias=bias)
    reach = -2 * min(0.0, float((scaled @ weight.T + shift).min()))
    return Probe(weight=weight / std, bias=shift - weight @ (mean / std), penalty=penalty, losses=losses, reach=reach)


def fold(model: nn.Module, probe: Probe) -> None:
    """Put a probe into the network's classifier, in place."""
    classifier = head.find(model)
    # Where negative answers become 0, all are raised: that changes no share of a softmax.
    raised = probe.reach if classifier.rectified else 0.0
    classifier.write(probe.weight, probe.bias + raised)


def _cross_validate(
    inputs: torch.Tensor, labels: torch.Tensor, classes: int, seed: int, *, bias: bool
) -> dict[float, float]:
    fold = folds(labels.numpy(), seed)
    count = int(fold.max()) + 1
    if count < 2:
        return {}
    totals = dict.fromkeys(PENALTIES, 0.0)
    for held in track(range(count), label="Fitting the probe", total=count):
        inside, outside = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        start: tuple[torch.Tensor, torch.Tensor] | None = None
        # From the strongest penalty down, each solution is a good start for the next.
        for penalty in sorted(PENALTIES, reverse=True):
            start = solve(inputs[inside], labels[inside], classes, penalty, start=start, exact=False, bias=bias)
            logits = inputs[outside] @ start[0].T + start[1]
            totals[penalty] += float(functional.cross_entropy(logits, labels[outside], reduction="sum"))
    return {penalty: total / len(labels) for penalty, total in totals.items()}


def folds(labels: np.ndarray, seed: int, *, most: int = FOLDS) -> np.ndarray:
    """Return the fold of each image, stratified by class: `most` folds, or one for each image of the smallest class."""
    fold = np.zeros(len(labels), np.int64)
    chance = np.random.default_rng(seed)
    counts = np.bincount(labels)
    folds = min(most, int(counts[counts > 0].min()))
    for label in np.unique(labels):
        members = chance.permutation(np.flatnonzero(labels == label))
        fold[members] = np.arange(len(members)) % folds
    return fold


def solve(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    penalty: float,
    *,
    start: tuple[torch.Tensor, torch.Tensor] | None = None,
    exact: bool = True,
    bias: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and bias of the least mean cross-entropy + penalty / 2 * |weight|^2, by L-BFGS.

    Without `bias`, it is zero.
    """
    weight = start[0].clone() if start else torch.zeros(classes, inputs.shape[1])
    shift = start[1].clone() if start else torch.zeros(classes)
    fitted = [weight, shift] if bias else [weight]
    for tensor in fitted:
        tensor.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        fitted,
        max_iter=200 if exact else 100,
        tolerance_grad=1e-5 if exact else 1e-4,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(inputs @ weight.T + shift, labels) + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    step: Callable[..., object] = optimizer.step
    step(closure)
    return weight.detach(), shift.detach()


def _key(model: nn.Module, pixels: Pixels, device: torch.device, batch: int, positions: np.ndarray | None) -> str:
    how = f"2 {device.type} {batch} {torch.__version__} {torch.get_num_threads()}"
    about = f"{pixels.key} {pixels.preprocess} {how} {model}"
    state = hashlib.sha256(about.encode())
    if positions is not None:
        state.update(positions.tobytes())
    classifier = head.find(model)
    for name, tensor in model.state_dict().items():
        if not classifier.holds(name):
            state.update(f"\0{name}{tuple(tensor.shape)}".encode())
            state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()[:32]


def _read(file: Path) -> tuple[torch.Tensor, np.ndarray] | None:
    """Return kept features and labels, None if there are none that can be used."""
    try:
        with open_regular(file) as handle:
            content = handle.read()
        saved, end = content[:-_CHECKSUM], content[-_CHECKSUM:]
        if end != _checksum(saved):
            raise ValueError("its checksum is another one")
        with np.load(io.BytesIO(saved), allow_pickle=False) as kept:
            found = torch.from_numpy(kept["features"]), kept["labels"]
        os.utime(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        log.warning("%s is damaged, so the features are computed again: %s.", file, error)
        return None
    return found


def _write(file: Path, values: torch.Tensor, labels: np.ndarray) -> None:
    saved = io.BytesIO()
    np.savez(saved, features=values.numpy(), labels=labels)
    content = saved.getvalue()
    try:
        write_whole(file, content + _checksum(content))
    except OSError as error:
        # Only a later run would have gained.
        log.warning("features are not kept: %s", error)


def _checksum(content: bytes) -> bytes:
    return checksum(content).to_bytes(_CHECKSUM, "big")
