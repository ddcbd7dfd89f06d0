"""The process in which Keras opens a file and writes it as ONNX: ``keras_export FILE TARGET``."""

from __future__ import annotations

import json
import os
import sys
import warnings


def main(file: str, target: str) -> str:
    """Write the network of a Keras file as ONNX; return what went wrong, empty if nothing did."""
    from tlopt.networks import vision_ops

    vision_ops.declare()
    try:
        import keras  # type: ignore[import-untyped]
    except ImportError:
        return "missing"
    import numpy as np

    warnings.simplefilter("ignore")
    try:
        model = keras.models.load_model(file, compile=False, safe_mode=True)
        model(np.zeros((1, *model.input_shape[1:]), "float32"))  # the export wants a network that has run
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
