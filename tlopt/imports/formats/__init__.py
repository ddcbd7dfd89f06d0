"""Networks in formats other than ONNX: each becomes a graph, which is compared with the network itself."""

from __future__ import annotations

from pathlib import Path

import onnx

from tlopt.imports.formats import comparison, keras, saved_model


def read(file: Path, *, size: int | None = None, width: int | None = None) -> onnx.ModelProto | None:
    """Return the network of a file that is no ONNX file as a graph; None if it is of no other known format.

    Args:
        file: The file, or the folder of a SavedModel.
        size: Side of the image, or its height, that the user says; None for the network's own.
        width: Of the image, likewise.

    Raises:
        ArtifactError: It cannot be read, or holds code.
        CheckError: The graph answers otherwise than the network.
        MissingLibraryError: What opens it is not installed.
    """
    if file.is_dir():
        original = saved_model.read(file, size=size, width=width)
    elif keras.is_keras(file):
        original = keras.read(file, size=size, width=width)
    elif file.suffix.lower() == ".pt2":
        from tlopt.imports.formats import pt2

        original = pt2.read(file, size=size, width=width)
    else:
        return None
    comparison.check(original, file)
    return original.graph
