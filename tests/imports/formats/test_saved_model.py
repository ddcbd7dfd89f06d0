"""SavedModels of TensorFlow become plain graphs, and no operator in one that does more than compute runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tlopt
from tlopt.errors import ArtifactError, CheckError, MissingLibraryError
from tlopt.imports.formats import saved_model
from tlopt.imports.formats import saved_model_operators as operators
from tlopt.imports.formats.comparison import Original, examples

HAS_TENSORFLOW = all(importlib.util.find_spec(name) is not None for name in ("tensorflow", "tf2onnx"))


def described(served=("Conv2D",), saved=("SaveV2",), restored=("RestoreV2",), main=(), also=(), called_by=None):
    """Return the description of a SavedModel as TensorFlow 2 writes one: calls of three functions in the main graph.

    Args:
        served, saved, restored: Operators of the functions.
        main: More operators of the main graph.
        also: Names of functions that the objects name, too.
        called_by: A function that calls the one that saves.
    """
    model = operators._message()
    network = model.meta_graphs.add()
    graph = network.graph_def
    for name, kinds in (("serve", served), ("save", saved), ("restore", restored)):
        function = graph.library.function.add()
        function.signature.name = name
        for kind in kinds:
            function.node_def.add(op=kind)
        if name == called_by:
            function.node_def.add(op="StatefulPartitionedCall").attr["f"].func.name = "save"
        graph.node.add(name=f"call_{name}", op="StatefulPartitionedCall").attr["f"].func.name = name
    for kind in ("VarHandleOp", *main):
        graph.node.add(name=kind, op=kind)
    network.saver_def.save_tensor_name, network.saver_def.restore_op_name = "call_save:0", "call_restore"
    for name in ("serve", *also):
        network.object_graph_def.concrete_functions[name].SetInParent()
    return model


def write(folder, model):
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def test_what_saves_weights_is_passed_over(tmp_path):
    folder = write(tmp_path / "net", described())
    assert operators.check(folder, folder / "saved_model.pb") is None


def with_same_saver():
    model = described()
    model.meta_graphs[0].saver_def.restore_op_name = "call_save"
    return model


def with_branches():
    model = described()
    [serve, *_] = model.meta_graphs[0].graph_def.library.function
    serve.node_def.add(op="Case").attr["branches"].list.func.add(name="save")
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: described(served=("Conv2D", "WriteFile")), "WriteFile"),
        (lambda: described(main=("PyFunc",)), "PyFunc"),
        (lambda: described(main=("SaveV2",)), "SaveV2"),
        (lambda: described(restored=("RestoreV2", "ReadFile")), "ReadFile"),
        (lambda: described(also=("save",)), "SaveV2"),
        (lambda: described(called_by="serve"), "SaveV2"),
        (lambda: described(called_by="restore"), "SaveV2"),
        (with_same_saver, "SaveV2"),
        (with_branches, "Case|SaveV2"),
        (lambda: described(served=("Mine\x1b[31m",)), r"Mine\\x1b"),
    ],
)
def test_what_does_more_than_compute_is_refused_before_tensorflow_sees_it(model, said, tmp_path, monkeypatch):
    folder = write(tmp_path / "net", model())
    monkeypatch.setattr(saved_model, "converted", lambda *_, **__: pytest.fail("TensorFlow must not see it"))
    with pytest.raises(ArtifactError, match=said):
        tlopt.import_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"), [(b"\xff\xff", "damaged"), (b"", "0 networks"), (b"\x12\x00", "TensorFlow 1")]
)
def test_other_files_are_refused(content, said, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "saved_model.pb").write_bytes(content)
    with pytest.raises(ArtifactError, match=said):
        tlopt.import_model(tmp_path / "net", tmp_path / "out")


def test_other_folders_are_no_models(tmp_path):
    (tmp_path / "net").mkdir()
    with pytest.raises(ArtifactError, match="is a folder"):
        tlopt.import_model(tmp_path / "net", tmp_path / "out")
    (tmp_path / "net" / "saved_model.pb").mkdir()
    with pytest.raises(ArtifactError, match=r"saved_model\.pb is a folder"):
        tlopt.import_model(tmp_path / "net", tmp_path / "out")


def means(factor=1.0):
    """Return a network of means over the image plane, as its library would give it back."""
    nodes = [helper.make_node("ReduceMean", ["image"], ["answer"], axes=[1, 2], keepdims=0)]
    made = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 32, 32, 3])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = examples((6, 32, 32, 3), np.float32)
    return Original(graph=model, inputs=inputs, answers=[factor * inputs.mean((1, 2))], runtime="TensorFlow")


def test_a_folder_becomes_an_artifact_that_names_all_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "converted", lambda *_, **__: means())
    folder = write(tmp_path / "net", described())
    (folder / "variables").mkdir()
    weights = folder / "variables" / "variables.data-00000-of-00001"
    weights.write_bytes(b"1")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    first = tlopt.import_model(folder, tmp_path / "first", classes=tmp_path / "classes.txt")
    weights.write_bytes(b"2")
    second = tlopt.import_model(folder, tmp_path / "second", classes=tmp_path / "classes.txt")
    assert first.card.model == "onnx:net"
    assert first.card.preprocess.layout == "nhwc"
    assert first.card.lineage[0].source != second.card.lineage[0].source


def test_a_graph_that_answers_otherwise_makes_no_artifact(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "converted", lambda *_, **__: means(1.1))
    with pytest.raises(CheckError, match="otherwise than TensorFlow"):
        tlopt.import_model(write(tmp_path / "net", described()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(HAS_TENSORFLOW, reason="TensorFlow is installed")
def test_without_tensorflow_one_error_says_what_to_install(tmp_path):
    with pytest.raises(MissingLibraryError, match="needs TensorFlow and tf2onnx") as error:
        tlopt.import_model(write(tmp_path / "net", described()), tmp_path / "out")
    assert error.value.hint == "python -m pip install 'tlopt[tensorflow]'"


MAKE = """
import sys
import numpy as np, tensorflow as tf
random = np.random.default_rng(0)
class Net(tf.Module):
    def __init__(self):
        self.kernel = tf.Variable(random.normal(size=(3, 3, 3, 8)).astype("float32") * 0.3)
        self.scale = tf.Variable(np.linspace(0.5, 2, 8, dtype="float32"))
        self.dense = tf.Variable(random.normal(size=(8, 3)).astype("float32"))
    @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3), name="image")])
    def __call__(self, image):
        inner = tf.nn.conv2d(tf.pad(image, [[0, 0], [1, 1], [1, 1], [0, 0]]), self.kernel, 2, "VALID")
        inner, _, _ = tf.compat.v1.nn.fused_batch_norm(
            inner, self.scale, self.scale, self.scale - 0.3, self.scale, is_training=False)
        pooled = tf.reduce_mean(tf.nn.relu6(inner), [1, 2])
        return {"answers": tf.nn.softmax(pooled @ self.dense)}
net = Net()
tf.saved_model.save(net, sys.argv[1], signatures=net.__call__)
inputs = random.random((5, 32, 32, 3)).astype("float32")
np.savez(sys.argv[2], inputs=inputs, answers=net(inputs)["answers"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TENSORFLOW, reason="TensorFlow and tf2onnx are not installed (tlopt[tensorflow])")
def test_a_saved_model_becomes_a_plain_graph_that_answers_alike(tmp_path):
    subprocess.run([sys.executable, "-c", MAKE, tmp_path / "net", tmp_path / "e.npz"], check=True, capture_output=True)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    artifact = tlopt.import_model(tmp_path / "net", tmp_path / "out", classes=tmp_path / "classes.txt", preset="0..1")
    with np.load(tmp_path / "e.npz") as given, tlopt.open_runner(artifact) as run:
        np.testing.assert_allclose(run(given["inputs"]), given["answers"], atol=1e-5)
    assert artifact.card.answers == "probabilities"
    found = Counter(node.op_type for node in onnx.load(artifact.payload(".onnx")).graph.node)
    assert found["Transpose"] == 1  # of the image, whose channels come last
    assert not found.keys() & {"BatchNormalization", "Cast", "Sub", "ReduceMean"}
