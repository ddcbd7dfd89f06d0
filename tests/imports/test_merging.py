"""What was exported as it was trained, with branches, is imported with one convolution for each block."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from branched_nets import Net

import tlopt
from tlopt.imports import merging
from tlopt.quantization.float_graph import float_graph
from tlopt.sessions import open_session


def branched(file, blocks=2):
    net = Net(channels=3)
    data = "images"
    for _ in range(blocks):
        data = net.repvgg(data)
    onnx.save(net.classifier(data), file)
    return file


def kinds(artifact):
    return [node.op_type for node in onnx.load(artifact.payload(".onnx")).graph.node]


@pytest.mark.parametrize("task", ["classify", "any"])
def test_blocks_of_branches_are_imported_as_one_convolution_each(tmp_path, task, caplog):
    caplog.set_level(logging.INFO, "tlopt")
    file = branched(tmp_path / "net.onnx")
    named = {"task": "any"}
    if task == "classify":
        (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
        named = {"classes": tmp_path / "names.txt"}
    artifact = tlopt.import_model(file, tmp_path / "made", **named)
    assert kinds(artifact) == ["Conv", "Relu", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert "2 convolutions instead of 4" in caplog.text
    inputs = np.random.default_rng(0).normal(size=(3, 3, 9, 9)).astype(np.float32)
    wanted = open_session(file).run(None, {"images": inputs})[0]
    found = open_session(artifact.payload(".onnx")).run(None, {"images": inputs})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_constant_may_be_an_output(tmp_path):
    """As the anchors of a detector are."""
    net = Net(channels=3)
    deep, anchors = net.repvgg("images"), net.constant(1, 2)
    model = net.model(deep, anchors)
    model.graph.output[1].CopyFrom(onnx.helper.make_tensor_value_info(anchors, onnx.TensorProto.FLOAT, [1, 2]))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "net.onnx")
    artifact = tlopt.import_model(tmp_path / "net.onnx", tmp_path / "made", task="any")
    assert kinds(artifact) == ["Conv", "Relu"]
    found = open_session(artifact.payload(".onnx")).run([anchors], {"images": np.zeros((1, 3, 9, 9), np.float32)})
    assert found[0].shape == (1, 2)


def test_a_graph_that_cannot_be_merged_is_imported_as_it_is(tmp_path, monkeypatch, caplog):
    def failing(model):
        raise RuntimeError("no reason")

    monkeypatch.setattr(merging, "without_branches", failing)
    artifact = tlopt.import_model(branched(tmp_path / "net.onnx"), tmp_path / "made", task="any")
    assert kinds(artifact).count("Conv") == 4
    assert "no reason" in caplog.text


def test_a_wrong_merge_is_not_taken(tmp_path, monkeypatch, caplog):
    def wrong(model):
        made = onnx.ModelProto()
        made.CopyFrom(model)
        made.graph.node[-1].op_type = "Gemm"
        made.graph.node[-1].attribute.append(onnx.helper.make_attribute("alpha", 1.1))
        return made

    monkeypatch.setattr(merging, "without_branches", wrong)
    file = branched(tmp_path / "net.onnx", blocks=1)
    artifact = tlopt.import_model(file, tmp_path / "made", task="any")
    assert kinds(artifact).count("Conv") == 2
    assert "stay as they are" in caplog.text


def test_an_older_artifact_is_quantized_without_its_branches(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "without_branches", lambda model: model)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    whole = tlopt.import_model(branched(tmp_path / "net.onnx"), tmp_path / "fp32", classes=tmp_path / "names.txt")
    assert kinds(whole).count("Conv") == 4
    view = float_graph(whole, precision="fp16", runtime="onnxruntime")
    assert [node.op_type for node in view.nodes].count("Conv") == 2
