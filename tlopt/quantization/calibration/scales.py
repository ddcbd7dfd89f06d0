"""From what the calibration images showed to the scale of every tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from tlopt.errors import ArtifactError
from tlopt.quantization.calibration.histogram import Histogram
from tlopt.quantization.grid import Grid, Scale
from tlopt.quantization.placement import Placement

Choose = Callable[[Histogram, Grid], tuple[float, float]]


def fit_scales(
    placement: Placement,
    histograms: Mapping[str, Histogram],
    choose: Choose,
    known: dict[tuple[frozenset[str], Grid], Scale] | None = None,
) -> dict[str, Scale]:
    """Return the scale of each quantized tensor; tensors that share one are looked at together.

    Args:
        placement: The quantized tensors.
        histograms: Of each of them.
        choose: A quantizer plugin's function.
        known: Tensors looked at together, and their grid -> their scale; filled, for the next placement.
    """
    known = {} if known is None else known
    groups: dict[str, list[str]] = {}
    for tensor in placement.edges:
        groups.setdefault(placement.root(tensor), []).append(tensor)
    fitted: dict[str, Scale] = {}
    for members in groups.values():
        if any(tensor in placement.hard_sigmoids for tensor in members):
            continue
        grid = placement.grid_of(members[0])
        key = frozenset(members), grid
        if key not in known:
            together = copy.deepcopy(histograms[members[0]])
            for other in members[1:]:
                together.merge(histograms[other])
            known[key] = grid.fit(*choose(together, grid))
        fitted.update(dict.fromkeys(members, known[key]))
    for tensor, found in placement.hard_sigmoids.items():
        scale = Scale(grid=placement.grid, scale=fitted[found.input].scale * found.slope, zero=0)
        fitted.update(dict.fromkeys(groups[placement.root(tensor)], scale))
    return {tensor: fitted[tensor] for tensor in placement.edges}


def given_scales(placement: Placement, given: Mapping[str, tuple[float, int]]) -> dict[str, Scale]:
    """Return the scale of each quantized tensor from those it was trained with.

    Args:
        placement: The quantized tensors.
        given: Tensor -> scale and zero point.

    Raises:
        ArtifactError: A tensor has none.
    """
    if missing := sorted(placement.edges.keys() - given.keys()):
        raise ArtifactError(
            f"{len(missing)} tensors of the graph have no trained scale, first {missing[0]}.",
            hint="Export the trained artifact again, with the version of torch that trained it.",
        )
    grid = placement.grid
    return {name: Scale(grid=grid, scale=given[name][0], zero=given[name][1]) for name in placement.edges}
