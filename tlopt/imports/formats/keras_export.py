"""The process in which Keras opens a file, writes it as ONNX and answers; see `conversion.speak`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tlopt.imports.formats.comparison import examples, filled
from tlopt.imports.formats.conversion import speak


def work(source: Path, target: Path, size: int, width: int) -> tuple[np.ndarray, Sequence[np.ndarray]]:
    """Write the network of a Keras file as ONNX; return images and what Keras answers to them."""
    from tlopt.networks import vision_ops

    vision_ops.declare()
    import keras  # type: ignore[import-untyped]

    warnings.simplefilter("ignore")
    model = keras.models.load_model(source, compile=False, safe_mode=True)
    inputs = examples(filled(model.input_shape, size, width), np.dtype(model.inputs[0].dtype))
    # The export wants a network that has run.
    answers = [keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(model(inputs))]
    model.export(str(target), format="onnx", verbose=False)
    return inputs, answers


if __name__ == "__main__":
    speak(work)
