"""Names of weights in files of other programs, which put the names of their wrappers before them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from tlopt.errors import ArtifactError

log = logging.getLogger(__name__)

# Of DataParallel, Lightning, torch.compile, mmpretrain and timm's training script.
_KNOWN = ("module.", "model.", "_orig_mod.", "backbone.", "state_dict.", "net.", "network.", "encoder.", "head.")


def bare(state: Mapping[str, torch.Tensor], own: Collection[str], file: Path) -> dict[str, torch.Tensor]:
    """Return weights by the names that the model has for them, as they are if no prefix explains the difference.

    Args:
        state: The weights of a file.
        own: The model's names.
        file: For messages.

    Raises:
        ArtifactError: The file holds several networks, each behind a prefix.
    """
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    if needed <= state.keys():
        return dict(state)
    counts = prefixes(state, needed)
    whole = [prefix for prefix, count in counts.items() if count == len(needed)]
    if len(whole) > 1:
        names = " and ".join(repr(prefix) for prefix in sorted(whole)[:3])
        raise ArtifactError(
            f"{file} holds {len(whole)} networks of this kind, with the prefixes {names}.",
            hint="Save the one that you want by itself, without its prefix.",
        )
    if whole:
        found = {name[len(whole[0]) :]: tensor for name, tensor in state.items() if name.startswith(whole[0])}
        log.info("%s: the prefix %r is left out of %d names, %d other tensors are not read", file, whole[0],
                 len(found), len(state) - len(found))  # fmt: skip
        return found
    found = {_stripped(name, own): tensor for name, tensor in state.items()}
    return found if len(found) == len(state) and needed <= found.keys() else dict(state)


def prefixes(state: Mapping[str, torch.Tensor], own: Collection[str]) -> Counter[str]:
    """Return prefix -> how many of the model's names are in a file with it before them."""
    known = frozenset(own)
    counts: Counter[str] = Counter()
    for name in state:
        place = name.find(".") + 1
        while place:
            if name[place:] in known:
                counts[name[:place]] += 1
            place = name.find(".", place) + 1
    return counts


def _stripped(name: str, own: Collection[str]) -> str:
    short = name
    while short not in own:
        prefix = next((prefix for prefix in _KNOWN if short.startswith(prefix)), None)
        if prefix is None:
            return name
        short = short[len(prefix) :]
    return short
