"""SavedModels of TensorFlow: the network that one serves becomes an ONNX graph like any other's.

TensorFlow and tf2onnx work in a process of their own. Before that, the SavedModel is searched for operators that do
more than compute.
"""

from __future__ import annotations

from pathlib import Path

from tlopt.imports.formats import saved_model_operators
from tlopt.imports.formats.comparison import Original
from tlopt.imports.formats.conversion import Library, converted

FILE = "saved_model.pb"  # in the folder that is a SavedModel
_TENSORFLOW = Library(
    name="TensorFlow", module="tlopt.imports.formats.saved_model_export",
    needs="A SavedModel needs TensorFlow and tf2onnx.", install="tlopt[tensorflow]",
    hint="Export it where its code is: python -m tf2onnx.convert --saved-model DIR --output model.onnx.",
    # Messages of its start; no GPU, whose memory it would take whole.
    environment={"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
)  # fmt: skip


def read(folder: Path, *, size: int | None = None, width: int | None = None) -> Original:
    """Return the network of a SavedModel as a plain graph, channels first but for the input, and what it answers.

    Args:
        folder: The SavedModel.
        size: Side of the image, or its height, where the network takes any.
        width: Of the image, likewise.

    Raises:
        ArtifactError: It is damaged, could do more than compute, or cannot be opened or exported.
        MissingLibraryError: TensorFlow or tf2onnx is not installed.
    """
    saved_model_operators.check(folder, folder / FILE)
    return converted(_TENSORFLOW, folder, size=size, width=width)
