"""The process in which TensorFlow opens a SavedModel and answers, and tf2onnx writes it; see `conversion.speak`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlopt.imports.formats.comparison import examples, filled
from tlopt.imports.formats.conversion import speak

_OPSET = 18  # the newest of tf2onnx 1.17


def work(source: Path, target: Path, size: int, width: int) -> tuple[np.ndarray, Sequence[np.ndarray]]:
    """Write the network that a SavedModel serves as ONNX; return images and what TensorFlow answers to them."""
    import tensorflow as tf
    import tf2onnx

    loaded = tf.saved_model.load(str(source))
    served = {name: one for name, one in loaded.signatures.items() if not name.startswith("__")}
    if "serving_default" not in served and len(served) != 1:
        raise ValueError(f"it has no signature serving_default, but {', '.join(sorted(served)) or 'none'}")
    function = served.get("serving_default") or next(iter(served.values()))
    given = function.structured_input_signature[1]
    if len(given) != 1:
        raise ValueError(f"it takes {len(given)} inputs ({', '.join(sorted(given))}); one is fed, the image")
    [(name, spec)] = given.items()
    if spec.shape.rank != 4:
        raise ValueError(f"its input has the shape {spec.shape}; an image's has 4 axes")
    inputs = examples(filled(spec.shape.as_list(), size, width), spec.dtype.as_numpy_dtype)

    @tf.function(input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name=name)])  # type: ignore[untyped-decorator]
    def network(image: Any) -> Any:
        return tf.nest.flatten(function(**{name: image}))

    answers = [one.numpy() for one in network(tf.constant(inputs))]
    tf2onnx.convert.from_function(network, input_signature=network.input_signature, opset=_OPSET, output_path=target)
    return inputs, answers


if __name__ == "__main__":
    speak(work)
