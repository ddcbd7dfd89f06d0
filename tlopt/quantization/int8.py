"""A float network that was calibrated: any mix of its blocks is written in 8 bits, the others stay float."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx

from tlopt.cards.details import TrainedScales
from tlopt.errors import ArtifactError, SettingError
from tlopt.graphs.lengths import of_one_image
from tlopt.graphs.macs import multiply_adds
from tlopt.graphs.view import View
from tlopt.quantization.calibration.activations import observe
from tlopt.quantization.calibration.histogram import Histogram
from tlopt.quantization.calibration.scales import Choose, fit_scales, given_scales
from tlopt.quantization.fences import fenced
from tlopt.quantization.grid import Grid, Scale
from tlopt.quantization.hard_sigmoids import HardSigmoid, hard_sigmoids, precise
from tlopt.quantization.options import EightBits
from tlopt.quantization.placement import Placement, Runtime, place
from tlopt.quantization.qdq import insert
from tlopt.quantization.quantizers import mse
from tlopt.quantization.weight_grids import QuantizedWeight
from tlopt.registry import load

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a network goes to 8 bits.

    Args:
        runtime: The runtime whose fused integer operators are aimed at.
        float8: Quantize to E4M3 instead of integers; TensorRT alone has kernels for it.
        reduced: Keep weights to half their range, for integer kernels that saturate.
        choose: How the range of an activation is chosen: a quantizer plugin's function.
        rounding: How weights become 8-bit numbers: by the layer's output error, or each alone.
        bias_correction: Let biases make up for mean errors.
        seed: Of the choice of places in an image.
        trained: Tensor -> scale and zero point that the network was trained with; None if it was trained in float.
        integer_hard_sigmoids: Bind the scales before hard sigmoids so that ONNX Runtime computes those in integers.
    """

    runtime: Runtime
    float8: bool = False
    reduced: bool = False
    choose: Choose = mse.choose
    rounding: Literal["gptq", "nearest"] = "gptq"
    bias_correction: bool = True
    seed: int = 0
    trained: Mapping[str, tuple[float, int]] | None = None
    integer_hard_sigmoids: bool = True


def scheme_of(
    how: EightBits, runtime: Runtime, *, float8: bool, reduced: bool, seed: int, trained: TrainedScales | None
) -> Scheme:
    """Return the scheme that settings ask for."""
    return Scheme(
        runtime=runtime,
        float8=float8,
        reduced=reduced,
        choose=load("quantizers", how.quantizer).choose,
        rounding=how.rounding,
        bias_correction=how.bias_correction,
        seed=seed,
        trained=trained.scales if trained else None,
    )


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A float network, where it is quantized, and what calibration found.

    Attributes:
        view: The float graph.
        scheme: How it goes to 8 bits.
        placement: Where it is quantized if no more blocks stay float.
        histograms: Of the activations, empty where scales were trained.
        weights: Node -> its quantized weight; weights that are not here are rounded to nearest.
    """

    view: View
    scheme: Scheme
    floats: frozenset[str]
    placement: Placement
    histograms: Mapping[str, Histogram]
    weights: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    _known: dict[tuple[frozenset[str], Grid], Scale] = field(default_factory=dict)

    def graph(self, floats: Collection[str] = ()) -> onnx.ModelProto:
        """Return the network in 8 bits, but for these nodes and those that stay float anyway.

        Args:
            floats: Names of nodes.
        """
        part = self._placed(floats)
        made = insert(self.view, part, self.scales(part), self.weights)
        return fenced(made, self.scheme.runtime)

    def multiply_adds(self, floats: Collection[str] = ()) -> tuple[int, int]:
        """Return how many multiply-adds of one image the graph computes in 8 bits, and how many it has.

        Args:
            floats: Names of more nodes that stay float.
        """
        part = self._placed(floats)
        shape = of_one_image(self.view)
        found = {node.name: multiply_adds(node, shape) for node in self.view.nodes}
        inside = sum(found[node.name] for node in self.view.nodes if part.is_eight_bit(self.view, node))
        return inside, sum(found.values())

    def _placed(self, floats: Collection[str]) -> Placement:
        if not floats:
            return self.placement
        return _placed(self.view, self.scheme, self.floats | set(floats), self.placement.hard_sigmoids)

    def scales(self, placement: Placement | None = None) -> dict[str, Scale]:
        """Return the scale of each quantized tensor.

        Raises:
            ArtifactError: The network was trained with scales, and a tensor has none.
        """
        placement = self.placement if placement is None else placement
        if self.scheme.trained is not None:
            return given_scales(placement, self.scheme.trained)
        return fit_scales(placement, self.histograms, self.scheme.choose, self._known)

    def rounded(self, batches: Callable[[], Iterable[np.ndarray]]) -> Calibrated:
        """Return the network with its weights rounded by what they do to the layers' outputs.

        Those of a network that was trained with its scales are rounded to nearest.

        Args:
            batches: Network inputs, anew at each call.
        """
        scheme, nearest = self.scheme, self.scheme.rounding == "nearest"
        if scheme.trained is not None or (nearest and not scheme.bias_correction):
            return self
        from tlopt.quantization.rounding import round_weights

        weights = round_weights(
            self.view,
            self.placement,
            self.scales(),
            batches,
            seed=scheme.seed,
            nearest=nearest,
            bias_correction=scheme.bias_correction,
            histograms=self.histograms,
        )
        return replace(self, weights=weights)


def calibrate(view: View, scheme: Scheme, batches: Iterable[np.ndarray], *, floats: Collection[str] = ()) -> Calibrated:
    """Choose where a network is quantized, and look at its activations there.

    Args:
        view: Of a cleaned float graph.
        scheme: How it goes to 8 bits.
        batches: Network inputs; not read where scales were trained.
        floats: Names of nodes that stay float in every graph.

    Raises:
        ArtifactError: There is nothing to quantize.
        SettingError: There is nothing left to quantize beside `floats`.
        StageError: A tensor takes values that are not finite.
    """
    placement = _placed(view, scheme, floats)
    if not placement.weights and floats:
        raise SettingError(
            "float_blocks leaves no weights to quantize.", hint="Name fewer blocks, or keep the float artifact."
        )
    if not placement.weights:
        raise ArtifactError("The graph has no convolution or matrix product with constant weights to quantize.")
    log.info("%d weights and %d activations in 8 bits", len(placement.weights), len(placement.edges))
    if scheme.trained is not None:
        return Calibrated(view=view, scheme=scheme, floats=frozenset(floats), placement=placement, histograms={})
    found = hard_sigmoids(view) if scheme.integer_hard_sigmoids and scheme.runtime == "onnxruntime" else {}
    most = _placed(view, scheme, floats, found) if found else placement
    histograms = observe(view, {**placement.edges, **most.edges}, batches)  # of whichever of the two it will be
    known: dict[tuple[frozenset[str], Grid], Scale] = {}
    if found:
        free = fit_scales(placement, histograms, scheme.choose, known)
        placement = _placed(view, scheme, floats, precise(found, free))
    return Calibrated(
        view=view,
        scheme=scheme,
        floats=frozenset(floats),
        placement=placement,
        histograms=histograms,
        _known=known,
    )


def _placed(
    view: View, scheme: Scheme, floats: Collection[str], found: Mapping[str, HardSigmoid] | None = None
) -> Placement:
    return place(view, scheme.runtime, floats=floats, float8=scheme.float8, reduced=scheme.reduced, hard_sigmoids=found)
