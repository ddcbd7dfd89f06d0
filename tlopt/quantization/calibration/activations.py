"""Run a graph on images and gather what its tensors look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx

from tlopt.errors import StageError
from tlopt.graphs.activations import activation, function
from tlopt.graphs.view import View
from tlopt.quantization.calibration.histogram import Histogram
from tlopt.sessions import open_session

_HINT = "If the network masks with infinity, export it with a large number instead, such as -10000."


def tapped(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return the model with these tensors as its only outputs, in the order given."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    known = {value.name: value for value in (*copied.graph.value_info, *copied.graph.output)}
    wanted = [known.get(name) or onnx.helper.make_empty_tensor_value_info(name) for name in tensors]
    del copied.graph.output[:]
    copied.graph.output.extend(wanted)
    return copied


def observe(
    view: View, tensors: Iterable[str], batches: Iterable[np.ndarray], *, infinite: bool = False
) -> dict[str, Histogram]:
    """Return the histogram of each tensor over all batches.

    Only one batch of activations is held at a time.

    Args:
        view: Of a float graph with one input.
        tensors: Names of computed tensors; the input itself may be among them.
        batches: Inputs, each float32 (n, 3, h, w).
        infinite: Take infinite values for 0, as those of an attention mask are where no range is chosen.

    Raises:
        StageError: A tensor takes values that are not finite.
    """
    source = view.inputs[0]
    histograms = {name: Histogram(function=_function(view, name)) for name in tensors}
    computed = [name for name in histograms if name != source]
    # An arena would keep what the largest batch took until the session ends.
    runner = open_session(tapped(view.model, computed or view.outputs[:1]), arena=False)
    for inputs in batches:
        found = dict(zip(computed, runner.run(None, {source: inputs}), strict=False))
        found[source] = inputs
        for name, histogram in histograms.items():
            values = found[name]
            if infinite:
                values = np.where(np.isinf(values), np.float32(0), values)
            try:
                histogram.add(values, images=len(inputs))
            except ValueError as error:
                raise StageError(
                    f"The tensor {name} takes values that are not finite on these images.", hint=_HINT
                ) from error
        found.clear()  # or all tensors of one batch would wait until those of the next are there, too
    return histograms


def _function(view: View, tensor: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the activation function that alone reads a tensor, None if there is none."""
    found = activation(view, tensor)
    return None if found is None else function(view, found)
