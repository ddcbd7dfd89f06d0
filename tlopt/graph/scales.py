"""From what the calibration images showed to the scale of every tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from tlopt.graph.grid import Grid, Scale
from tlopt.graph.histogram import Histogram
from tlopt.graph.placement import Placement

Choose = Callable[[Histogram, Grid], tuple[float, float]]


def fit_scales(placement: Placement, histograms: Mapping[str, Histogram], choose: Choose) -> dict[str, Scale]:
    """Return the scale of each quantized tensor; tensors that share one are looked at together.

    Args:
        placement: The quantized tensors.
        histograms: Of each of them.
        choose: A quantizer plugin's function.
    """
    together: dict[str, Histogram] = {}
    for tensor in placement.edges:
        root = placement.root(tensor)
        if root in together:
            together[root].merge(histograms[tensor])
        else:
            together[root] = copy.deepcopy(histograms[tensor])
    fitted = {root: placement.grid.fit(*choose(found, placement.grid)) for root, found in together.items()}
    return {tensor: fitted[placement.root(tensor)] for tensor in placement.edges}
