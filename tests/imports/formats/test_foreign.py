"""What is given in the place of an ONNX file, told in words."""

from __future__ import annotations

import io
import pickle
import re
import zipfile

import numpy as np
import onnx
import pytest
import torch
from foreign_onnx import Net

import tlopt
from tlopt.errors import ArtifactError
from tlopt.imports.formats.foreign import described


def archive(*names):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as opened:
        for name in names:
            opened.writestr(name, "x")
    return made.getvalue()


def checkpoint():
    made = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, made)
    return made.getvalue()


def weights():
    from safetensors.numpy import save

    return save({"weight": np.zeros(2, np.float32)})


GIVEN = {
    "net.json": (b'{"a": 1}', "a file of JSON", "Write an ONNX file"),
    "net.onnxjson": (b'{"a": ', "a text, JSON by its start", "Write an ONNX file"),
    "notes.txt": (b"hello", "a text", "Write an ONNX file"),
    "notes.textproto": (b"hello", "a text", "Write an ONNX file"),
    "notes.onnxtxt": (b"hello", "a text", "Write an ONNX file"),
    "empty.onnx": (b"", "empty", "Copy it"),
    "pointer.onnx": (b"version https://git-lfs.github.com/spec/v1\noid 1\n", "a pointer of Git LFS", "git lfs pull"),
    "page.onnx": (b"<!DOCTYPE html><html>", "a page of HTML", "Download"),
    "graph.pb": (b"\x0a\x05\x0a\x03abc" * 9, "TensorFlow writes", "tf2onnx"),
    "all.zip": (archive("a.txt"), "an archive", "Unpack"),
    "cut.zip": (archive("a.txt")[:40], "a damaged archive", "again"),
    "net.pth": (checkpoint(), "a checkpoint of PyTorch", "torch.onnx.export"),
    "net.pt": (archive("net/data.pkl", "net/constants.pkl"), "a TorchScript file", "torch.onnx.export"),
    "exported.pt": (archive("net/archive_format"), "torch.export", r"\.pt2"),
    "net.pkl": (pickle.dumps({}), "a pickle", "torch.onnx.export"),
    "net.safetensors": (weights(), "weights without a network", "--weights"),
    "net.h5": (b"\x89HDF\r\n\x1a\n\0\0", "HDF5", r"\.keras"),
    "net.tflite": (b"\x1c\0\0\0TFL3\0\0", "TensorFlow Lite", "SavedModel"),
    "net.xml": (b"<?xml version='1.0'?><net>", "OpenVINO", "ONNX file"),
    "net.engine": (b"ftrt\0\0", "an engine of TensorRT", "tlopt build"),
    "net.py": (b"import torch\n", "a Python file", "MODULE:FUNCTION"),
    "net.png": (b"\x89PNG\r\n\x1a\n\0", "an image", "ONNX file"),
}


@pytest.mark.filterwarnings("ignore:The onnxtxt format")
@pytest.mark.parametrize("name", GIVEN)
def test_a_file_that_is_no_network_is_told_in_words(name, tmp_path):
    content, what, hint = GIVEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=what) as caught:
        tlopt.import_model(tmp_path / name, tmp_path / "art")
    assert re.search(hint, caught.value.hint)
    assert not (tmp_path / "art").exists()


def test_of_a_damaged_onnx_file_nothing_else_is_said(tmp_path):
    model = onnx.load(Net().save(tmp_path / "net.onnx"))
    model.graph.node[0].op_type = "Missing"
    for name in ("other.onnx", "other.pb"):
        (tmp_path / name).write_bytes(model.SerializeToString())
        assert described(tmp_path / name) == ("", "")
        with pytest.raises(ArtifactError, match="Missing"):
            tlopt.import_model(tmp_path / name, tmp_path / "art")
    (tmp_path / "noise.onnx").write_bytes(bytes(range(255, 0, -1)))
    with pytest.raises(ArtifactError, match="is not a readable ONNX file"):
        tlopt.import_model(tmp_path / "noise.onnx", tmp_path / "art")
