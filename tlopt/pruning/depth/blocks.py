"""Whole blocks that a network can do without: a block adds what it computes to what it is given.

Such a block is found by what it computes and not by its name. With zeros for all of its weights it answers with what it
was given, and the network answers as it does with nothing in the block's place.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tlopt.networks.removal import Removed
from tlopt.pruning import norms

log = logging.getLogger(__name__)

_SAME = 1e-4  # of the largest number: sums may be rounded otherwise

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block that can be removed.

    Args:
        name: Its name in the model.
        layers: Names of the convolutions and linear layers in it.
    """

    name: str
    layers: frozenset[str]


def find(model: nn.Module, size: int) -> tuple[Block, ...]:
    """Return the blocks of a network that can be removed, as they stand in it.

    A block in another one counts too. One that holds nothing besides such blocks does not: they go one by one.

    Args:
        model: A classifier of float32 (n, 3, size, size). It stays as it is.
        size: Side of the square input, pixels.
    """
    shadow = copy.deepcopy(model).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = images.to(next(shadow.parameters()).device)
    with torch.no_grad():
        names = [name for name, given in _given(shadow, images).items() if _adds(shadow.get_submodule(name), given)]
        if not _spare(shadow, names, images):
            names = [name for name in names if _spare(shadow, [name], images)]
    found = [Block(name=name, layers=_layers(shadow, name)) for name in names]
    return tuple(block for block in found if block.layers - _within(block, found))


def harms(
    model: nn.Module, blocks: Sequence[Block], batches: Callable[[str], Batches], answers: torch.Tensor
) -> dict[str, float]:
    """Return what the removal of each block alone does to the answers.

    That is their Kullback-Leibler divergence from the unpruned network's, in nats, the mean over the images. Batch
    norms take the statistics of each batch meanwhile, as they are measured anew after a cut.

    Args:
        model: The network; it is left as it was.
        blocks: Of the network.
        batches: Name of a progress bar -> inputs and labels, the same at each call.
        answers: The unpruned network's logits for them, float32 (images, classes).
    """
    inputs = [images for images, _ in batches("Leaving out blocks")]
    found = {}
    with norms.of_each_batch(model):
        for block in blocks:
            with placed(model, {block.name: Removed()}):
                logits = logits_of(model, inputs)
            found[block.name] = divergence(logits, answers)
    return found


def logits_of(model: nn.Module, inputs: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return a network's answers to batches, float32 (images, classes)."""
    with torch.no_grad():
        return torch.cat([model(images).float() for images in inputs])


def divergence(logits: torch.Tensor, answers: torch.Tensor) -> float:
    """Return how far logits are from others, both (images, classes): a mean divergence, nats."""
    ours, theirs = logits.log_softmax(1), answers.log_softmax(1)
    return float(functional.kl_div(ours, theirs, reduction="batchmean", log_target=True))


def _given(model: nn.Module, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """Return what modules with layers in them are given, of those that give back one tensor of the same shape."""
    given: dict[str, torch.Tensor] = {}
    called: dict[str, int] = {}

    def before(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            called[name] = called.get(name, 0) + 1
            if len(inputs) == 1 and not named and isinstance(inputs[0], torch.Tensor):
                given[name] = inputs[0].clone()  # the block may write over it

        return hook

    def after(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            was = given.get(name)
            if was is not None and (not isinstance(output, torch.Tensor) or output.shape != was.shape):
                del given[name]

        return hook

    hooks = []
    for name, module in model.named_modules():
        if name and not isinstance(module, nn.Conv2d | nn.Linear) and _layers(model, name):
            hooks.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            hooks.append(module.register_forward_hook(after(name)))
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: given[name] for name, _ in model.named_modules() if name in given and called[name] == 1}


def _adds(block: nn.Module, given: torch.Tensor) -> bool:
    """Whether a block without its weights answers with what it is given."""
    try:
        return bool(given.any()) and _same(_silenced(block)(given.clone()), given)
    except Exception as error:  # noqa: BLE001 - what the network's own code runs into has no common type
        log.debug("%s: %s", type(block).__name__, error)
        return False


def _spare(model: nn.Module, names: Sequence[str], images: torch.Tensor) -> bool:
    """Whether a network answers without blocks as it does with blocks that have no weights."""
    inward = sorted(names, key=lambda name: name.count("."), reverse=True)
    silent = {name: _silenced(model.get_submodule(name)) for name in inward}
    try:
        with placed(model, silent):
            wanted = model(images)
        with placed(model, {name: Removed() for name in inward}):
            return _same(model(images), wanted)
    except Exception as error:  # noqa: BLE001 - as above
        log.debug("%s: %s", ", ".join(names), error)
        return False


def _silenced(block: nn.Module) -> nn.Module:
    copied = copy.deepcopy(block)
    for tensor in (*copied.parameters(), *copied.buffers()):
        if tensor.is_floating_point():
            tensor.zero_()
    return copied


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= _SAME * wanted.abs().max())


def _layers(model: nn.Module, name: str) -> frozenset[str]:
    inside = model.get_submodule(name).named_modules(prefix=name)
    return frozenset(own for own, module in inside if isinstance(module, nn.Conv2d | nn.Linear))


def _within(block: Block, others: Iterable[Block]) -> frozenset[str]:
    inner = (other.layers for other in others if other.name.startswith(f"{block.name}."))
    return frozenset().union(*inner)


@contextmanager
def placed(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put other modules in the places of some for the length of the block: name -> module, inner ones first."""
    before: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for name, module in modules.items():
            owner, _, key = name.rpartition(".")
            holder = model.get_submodule(owner)
            before.append((holder, key, getattr(holder, key)))
            setattr(holder, key, module)
        yield
    finally:
        for holder, key, own in reversed(before):
            setattr(holder, key, own)
