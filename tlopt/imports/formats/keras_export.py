"""The process in which Keras opens a file and writes it as ONNX: ``keras_export FILE TARGET EXAMPLE SIZE WIDTH``."""

from __future__ import annotations

import json
import os
import sys
import warnings


def main(file: str, target: str, example: str, size: str, width: str) -> str:
    """Write the network of a Keras file as ONNX, and what it answers; return what went wrong, empty if nothing did."""
    from tlopt.networks import vision_ops

    vision_ops.declare()
    try:
        import keras  # type: ignore[import-untyped]
    except ImportError:
        return "missing"
    import numpy as np

    from tlopt.imports.formats.comparison import examples, filled

    warnings.simplefilter("ignore")
    try:
        model = keras.models.load_model(file, compile=False, safe_mode=True)
        inputs = examples(filled(model.input_shape, int(size), int(width)), np.dtype(model.inputs[0].dtype))
        # The export wants a network that has run.
        answers = [keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(model(inputs))]
        np.savez(example, inputs=inputs, **{f"answer_{place}": answer for place, answer in enumerate(answers)})
        model.export(target, format="onnx", verbose=False)
    except Exception as error:  # noqa: BLE001 - Keras and torch raise whatever they stumble over
        reason = str(error).strip().partition("\n")[0][:500] or type(error).__name__
        return json.dumps({"error": reason})
    return ""


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    said = main(*sys.argv[1:])
    own.write(f"{said}\n")
    own.flush()
    sys.exit(bool(said))
