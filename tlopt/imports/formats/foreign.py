"""What a file is that is no network tlopt can read: told in words, with what to do instead."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from tlopt.reading.files import open_regular

_START = 4096  # bytes looked at
_WEIGHTS = "Give the network by name, --model SOURCE:NAME, and these as --weights."
_CHECKPOINT = (
    "Give the network by name, --model SOURCE:NAME, with --weights FILE.safetensors, or write an ONNX file of it with "
    "torch.onnx.export."
)
_UNPACK = "Unpack it, and give the file or the SavedModel that is in it."
_EXPORT = "Write an ONNX file of the network, and give that."

# Place of the bytes, bytes, what the file is, what to do.
_MARKS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Run git lfs pull in its repository."),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras 2 wrote it",
     "Open it in Keras, and save it as a file with the ending .keras."),
    (4, b"TFL3", "a network of TensorFlow Lite", "Give the SavedModel or the Keras file that it was made of."),
    (4, b"ORTM", "a network in ONNX Runtime's own format", "Give the ONNX file that it was made of."),
    (0, b"ftrt", "an engine of TensorRT", "Give the ONNX file that it was made of. tlopt build makes engines."),
    (0, b"\x80\x02", "a pickle, as PyTorch writes checkpoints. It may hold code", _CHECKPOINT),
    (0, b"\x80\x03", "a pickle. It may hold code", _CHECKPOINT),
    (0, b"\x80\x04", "a pickle. It may hold code", _CHECKPOINT),
    (0, b"\x80\x05", "a pickle. It may hold code", _CHECKPOINT),
    (0, b"\x89PNG", "an image", _EXPORT),
    (0, b"\xff\xd8\xff", "an image", _EXPORT),
    (0, b"\x1f\x8b", "a compressed file", _UNPACK),
    (0, b"BZh", "a compressed file", _UNPACK),
    (0, b"\xfd7zXZ", "a compressed file", _UNPACK),
    (0, b"(\xb5/\xfd", "a compressed file", _UNPACK),
    (0, b"7z\xbc\xaf", "an archive", _UNPACK),
    (257, b"ustar", "an archive", _UNPACK),
    (0, b"PK\x03\x04", "a damaged archive", "Copy or download it again."),
    (0, b"<?xml", "a file of XML, as OpenVINO writes networks", "Give the ONNX file that it was made of."),
    (0, b"<net", "a network of OpenVINO", "Give the ONNX file that it was made of."),
    (0, b"<", "a page of HTML or XML", "Download the file itself."),
)  # fmt: skip
_ENDINGS: dict[str, tuple[str, str]] = {
    ".pb": ("no ONNX file. TensorFlow writes its graphs with this ending",
            "Give the folder of a SavedModel, or convert a frozen graph: python -m tf2onnx.convert --graphdef FILE."),
    ".pdmodel": ("a network of PaddlePaddle", "Convert it with paddle2onnx, and give the ONNX file."),
    ".caffemodel": ("a network of Caffe", _EXPORT),
    ".mlmodel": ("a network of Core ML", "Give the ONNX file or the network that it was made of."),
    ".weights": ("a file of weights", _EXPORT),
}  # fmt: skip
_CODE = "A network of your own is given by name: --model MODULE:FUNCTION."


def described(file: Path) -> tuple[str, str]:
    """Return what a file is, as the rest of a sentence after "is", and what to do; empty texts if that is not known.

    Raises:
        OSError: It cannot be read.
    """
    with open_regular(file) as opened:
        start = opened.read(_START)
    if not start:
        return "empty", "Copy it or export it again."
    if zipfile.is_zipfile(file):
        return _archive(file)
    for place, mark, what, hint in _MARKS:
        if start[place : place + len(mark)] == mark:
            return what, hint
    if start[8:9] == b"{" and b"data_offsets" in start:
        return "a file of weights without a network", _WEIGHTS
    if file.suffix.lower() in _ENDINGS and not _has_nodes(file):
        return _ENDINGS[file.suffix.lower()]
    return _text(file, start)


def _has_nodes(file: Path) -> bool:
    """Whether it is an ONNX file with another ending, damaged though it is."""
    import onnx

    try:
        return bool(onnx.load(file, format="protobuf", load_external_data=False).graph.node)
    except Exception:  # noqa: BLE001 - the parsers of protobuf's implementations share no error
        return False


def _archive(file: Path) -> tuple[str, str]:
    with zipfile.ZipFile(file) as archive:
        names = [name.partition("/")[2] or name for name in archive.namelist()]
    if "data.pkl" in names:
        if "constants.pkl" in names:
            return "a TorchScript file. It may hold code", _CHECKPOINT
        return "a checkpoint of PyTorch. It may hold code", _CHECKPOINT
    if "archive_format" in names or any(name.startswith("models/") for name in names):
        return "an archive, perhaps of torch.export", "Give it the ending .pt2."
    return "an archive", _UNPACK


def _text(file: Path, start: bytes) -> tuple[str, str]:
    """Describe a text; of any other file nothing is known."""
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # the last letter may be cut
            return "", ""
        text = start[: error.start].decode()
    if any(ord(letter) < ord(" ") and letter not in "\t\r\n\f" for letter in text):
        return "", ""
    if file.suffix.lower() == ".py":
        return "a Python file", _CODE
    try:
        json.loads(text)
    except ValueError:
        found = "a text" if text.lstrip()[:1] not in ("{", "[") else "a text, JSON by its start"
        return found, _EXPORT
    return "a file of JSON", _EXPORT
