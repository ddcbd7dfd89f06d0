"""How channels are ranked for pruning: one file per criterion.

A criterion module defines

    NEEDS: "" | "labels" | "outputs"            the objective whose gates it reads, empty if none
    COMPARABLE: bool                            whether scores of different groups share one scale
    def score(group: ChannelGroup) -> Tensor    float32 (units,): the harm of removing each unit

Scores are at least 0 and are added up over the units that go. Comparable ones decide how much each
group loses; others rank within groups only, and every group loses about the same share. `group.gates` is
float32 (images, units) if `NEEDS` names an objective (see `tlopt.pruning.gates`).
"""

from __future__ import annotations

from types import ModuleType

from tlopt import registry


def load(name: str) -> ModuleType:
    """Import a criterion.

    Raises:
        PluginError: There is none of this name.
        MissingLibraryError: A library that it needs is not installed.
    """
    return registry.load("criteria", name)
