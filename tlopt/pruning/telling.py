"""What is said of a cut: what is left, and what could not go."""

from __future__ import annotations

import logging

from tlopt.errors import StageError
from tlopt.pruning.channels import Network
from tlopt.pruning.cuts import Cut

log = logging.getLogger(__name__)

_FURTHER = 0.05  # of the multiply-adds: more than this beyond the aim is said
_NAMED = 3  # layers


def multiply_adds(before: float, after: float, cut: Cut) -> None:
    """Say how many multiply-adds are left."""
    log.info("multiply-adds: %.1f M of %.1f M left", after / 1e6, before / 1e6)
    if cut.speedup is None and after > (1 - cut.ratio) * before:
        log.warning(
            "Only %.0f %% of the multiply-adds could be removed, not %.0f %%. "
            "A tenth of each group of channels stays, and widths are multiples of %d.",
            100 * (1 - after / before), 100 * cut.ratio, cut.multiple,
        )  # fmt: skip
    if cut.speedup is None and after < (1 - cut.ratio - _FURTHER) * before:
        log.warning(
            "%.0f %% of the multiply-adds went, not %.0f %%: the narrowest step is that wide, because widths are "
            "multiples of %d. Try a smaller --multiple.", 100 * (1 - after / before), 100 * cut.ratio, cut.multiple,
        )  # fmt: skip


def layers_kept(network: Network) -> None:
    """Say in one line which layers keep their channels, and why.

    Raises:
        StageError: All do.
    """
    reasons: dict[str, list[str]] = {}
    for layer, reason in network.whole.items():
        reasons.setdefault(reason, []).append(layer)
    told = "; ".join(f"{_listed(layers)}, because {reason}" for reason, layers in reasons.items())
    if told and network.groups:
        log.warning("These layers keep their channels: %s.", told)
    if not network.groups:
        raise StageError(
            f"No channels of this network can be removed. These layers keep theirs: {told}."
            if told
            else "No channels of this network can be removed: all of them are its input or its answers.",
            hint="Quantize the network instead, or use another one.",
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
