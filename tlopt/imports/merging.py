"""A network that was exported as it was trained, with branches, gets the form that is meant to run."""

from __future__ import annotations

import logging

import numpy as np
import onnx

from tlopt.graphs.rewriting.parallel import without_branches
from tlopt.graphs.unmistakable import unmistakable
from tlopt.imports.any_task import same
from tlopt.imports.probing import probes, tolerance
from tlopt.preprocess import Preprocess
from tlopt.progress import NOTICE
from tlopt.sessions import open_session

log = logging.getLogger(__name__)


def merged(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """Return a graph whose parallel convolutions are merged, if it answers the same; else the graph itself.

    Args:
        model: That has been probed: its batch is free or fixed.
        preprocess: How images become its input.
    """
    try:
        made = without_branches(model)
        if made is model:
            return model
        made = unmistakable(made)
        alike = _alike(made, model, preprocess)
    except Exception as error:  # noqa: BLE001 - whatever it is, the file can be used as it is
        log.warning("The parallel convolutions stay as they are: %s", error)
        return model
    if not alike:
        log.warning("The parallel convolutions stay as they are: merged, they answer otherwise.")
        return model
    counts = [sum(node.op_type == "Conv" for node in graph.graph.node) for graph in (made, model)]
    log.log(NOTICE, "Parallel convolutions that are summed were merged: %d convolutions instead of %d.", *counts)
    return made


def _alike(made: onnx.ModelProto, model: onnx.ModelProto, preprocess: Preprocess) -> bool:
    """Whether two graphs give the same answers to a few images."""
    batch = int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value) or 4
    images = probes(preprocess)
    inputs = preprocess.normalize(images[np.arange(batch) % len(images)])
    pairs = zip(_answers(made, inputs), _answers(model, inputs), strict=True)
    return all(own.shape == wanted.shape and same(own, wanted, tolerance(model)) for own, wanted in pairs)


def _answers(model: onnx.ModelProto, inputs: np.ndarray) -> list[np.ndarray]:
    found = open_session(model).run(None, {model.graph.input[0].name: inputs})
    return [np.asarray(values) for values in found]
