"""Keras files become plain graphs, and no code in them runs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter

import numpy as np
import onnx
import pytest

import tlopt
from tlopt.errors import ArtifactError
from tlopt.imports.formats import keras

LAYER = {"module": "keras.layers", "class_name": "ReLU", "config": {}, "registered_name": None}


def described(layers=(), name="net"):
    return {
        "module": "keras.src.models.functional", "class_name": "Functional",
        "config": {"name": name, "layers": [{**LAYER, "class_name": "InputLayer"}, *layers]},
    }  # fmt: skip


def write(file, config):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", b"")
    return file


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({**LAYER, "class_name": "Lambda"}, "Lambda of keras"),
        ({**LAYER, "class_name": "TFSMLayer"}, "TFSMLayer"),
        ({**LAYER, "config": {"activation": {"module": "builtins", "class_name": "__lambda__"}}}, "__lambda__"),
        ({**LAYER, "module": "os", "class_name": "system"}, "system of os"),
        ({**LAYER, "module": "kerasx.layers"}, "ReLU of kerasx"),
        ({**LAYER, "module": None, "registered_name": "my_package>ReLU"}, "my_package"),
        ({**LAYER, "config": {"activation": {"module": "builtins", "class_name": "function", "config": "f"}}}, ""),
        ({**LAYER, "config": {"activation": {"module": "subprocess", "class_name": "run"}}}, "run of subprocess"),
    ],
)
def test_code_in_a_file_is_refused_before_keras_sees_it(layer, said, tmp_path, monkeypatch):
    file = write(tmp_path / "net.keras", described([layer]))
    if not said:
        assert keras._expect_plain(keras.description(file), file) is None
        return
    monkeypatch.setattr(keras, "converted", lambda *_, **__: pytest.fail("Keras must not see it"))
    with pytest.raises(ArtifactError, match=said):
        tlopt.import_model(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_what_is_no_archive_is_refused(content, tmp_path):
    file = tmp_path / "net.keras"
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="no file of Keras 3"):
        tlopt.import_model(file, tmp_path / "out")


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        keras.description(tmp_path / "net.keras")


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("mobilenetv2_1.00_224", "keras:mobilenet_v2"),
        ("MobilenetV3small", "keras:mobilenet_v3"),
        ("mobilenet_1.00_224", "keras:mobilenet"),
        ("resnet50", "keras:resnet"),
        ("resnet101v2", "keras:resnet_v2"),
        ("efficientnetb0", "keras:efficientnet"),
        ("efficientnetv2-b0", "keras:efficientnet_v2"),
        ("my_network", ""),
    ],
)
def test_a_network_of_the_applications_is_known_by_its_name(name, preset):
    assert keras.family(described(name=name)) == preset
    first = {**LAYER, "class_name": "Functional", "config": {"name": name}}
    assert keras.family(described([first])) == preset
    assert keras.family(described([{**LAYER, "class_name": "Rescaling"}, first])) == ""


@pytest.mark.parametrize("config", [[], {}, {"config": []}, {"config": {"layers": [1], "name": 3}}])
def test_odd_descriptions_name_no_family(config):
    assert keras.family(config if isinstance(config, dict) else {}) == ""


MAKE = """
import os, sys
from tlopt.networks import vision_ops
import torch
vision_ops.declare()
import keras, numpy as np
keras.utils.set_random_seed(0)
images = inner = keras.Input((32, 32, 3))
for width, stride in ((8, 2), (16, 2)):
    inner = keras.layers.ZeroPadding2D(1)(inner)
    inner = keras.layers.Conv2D(width, 3, stride, use_bias=False)(inner)
    inner = keras.layers.BatchNormalization()(inner)
    inner = keras.layers.ReLU(6.0)(inner)
    scale = keras.layers.GlobalAveragePooling2D(keepdims=True)(inner)
    scale = keras.layers.Conv2D(width, 1, activation="sigmoid")(scale)
    inner = keras.layers.Multiply()([inner, scale])
inner = keras.layers.GlobalAveragePooling2D()(inner)
model = keras.Model(images, keras.layers.Dense(3, activation="softmax")(inner))
model.layers[3].moving_variance.assign(np.linspace(0.5, 2, 8))
model.save(sys.argv[1])
inputs = np.random.default_rng(0).random((5, 32, 32, 3), dtype=np.float32)
np.savez(sys.argv[2], inputs=inputs, answers=keras.ops.convert_to_numpy(model(inputs)))
"""


@pytest.mark.slow
def test_a_network_of_keras_becomes_a_plain_graph_that_answers_alike(tmp_path):
    if importlib.util.find_spec("keras") is None:
        pytest.skip("Keras is not installed")
    file, example = tmp_path / "net.keras", tmp_path / "example.npz"
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", MAKE, file, example], env=environment, check=True, capture_output=True)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    artifact = tlopt.import_model(file, tmp_path / "out", classes=tmp_path / "classes.txt", preset="0..1")
    with np.load(example) as given, tlopt.open_runner(artifact) as run:
        np.testing.assert_allclose(run(given["inputs"]), given["answers"], atol=1e-5)
        np.testing.assert_allclose(run(given["inputs"][:1]), given["answers"][:1], atol=1e-5)
    assert artifact.card.preprocess.layout == "nhwc"
    assert artifact.card.answers == "probabilities"
    found = Counter(node.op_type for node in onnx.load(artifact.payload(".onnx")).graph.node)
    assert found["Transpose"] == 1  # of the image, whose channels come last
    assert found["Conv"] == 4
    assert not found.keys() & {"Cast", "Sub", "Add", "Pad", "Shape", "ReduceMean"}
