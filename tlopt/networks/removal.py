"""Blocks that were removed from a network: something that answers with what it is given is in their place.

All other modules keep their names, and so do their weights. The names of the removed blocks are read from the network
itself, so that whatever trains or copies it need not know of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from tlopt.errors import ArtifactError
from tlopt.reading.names import shown_name


class Removed(nn.Identity):
    """The place of a block that was removed."""


def remove(model: nn.Module, names: Iterable[str]) -> None:
    """Remove blocks from a network, in place.

    Args:
        model: The network.
        names: Of the blocks, as `named_modules` has them. What they hold goes with them.
    """
    for name in names:
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, Removed().train(model.training))


def removed(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the blocks that were removed from a network, in its order."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, Removed))


def repeat(model: nn.Module, names: Iterable[str], *, where: str) -> None:
    """Remove the blocks from a freshly built network that its card names, in place.

    Args:
        model: The architecture.
        names: Of the blocks.
        where: Name of the card's artifact, for error messages.

    Raises:
        ArtifactError: The architecture has no such block.
    """
    for name in names:
        block = dict(model.named_modules()).get(name)
        if not name or block is None or next(block.parameters(), None) is None:
            raise ArtifactError(
                f"The card of {where} names a removed block {shown_name(name)!r}, which the architecture lacks.",
                hint="The card was changed, or the architecture is another one now. Make the artifact again.",
            )
        remove(model, [name])
