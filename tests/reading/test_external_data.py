import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tlopt
from tlopt.artifact import Artifact, seal
from tlopt.cards.card import Card
from tlopt.errors import ArtifactError
from tlopt.preprocess import Preprocess
from tlopt.reading import external_data


def graph(folder: Path, place: str, *, hidden: bool = False) -> Path:
    """Write a classifier of 12 inputs whose weights, 12 x 2 floats, lie at a place."""
    weight = numpy_helper.from_array(np.zeros((12, 2), np.float32), "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", "96")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    kept = [weight]
    if hidden:
        nodes.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
        kept = []
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 2, 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [logits], kept), ir_version=8)
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@pytest.mark.parametrize("hidden", [False, True])
def test_weights_outside_of_the_folder_are_refused(hidden, tmp_path):
    (tmp_path / "private").write_bytes(bytes(96))
    folder = tmp_path / "model"
    folder.mkdir()
    for place in ("../private", str(tmp_path / "private"), "sub/../../private"):
        with pytest.raises(ArtifactError, match="outside of its folder"):
            external_data.check(graph(folder, place, hidden=hidden))
    (folder / "loop").symlink_to("loop")
    with pytest.raises(ArtifactError, match="loop"):
        external_data.check(graph(folder, "loop", hidden=hidden))
    (folder / "link").symlink_to(tmp_path / "private")
    with pytest.raises(ArtifactError, match="outside of its folder: link"):
        external_data.check(graph(folder, "link", hidden=hidden))


@pytest.mark.parametrize("hidden", [False, True])
def test_an_address_in_memory_is_no_place_of_weights(hidden, tmp_path):
    # OpenVINO takes this name for "the offset is an address", whatever file there is.
    place = "*/_ORT_MEM_ADDR_/*"
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(bytes(96))
    with pytest.raises(ArtifactError, match="at an address in memory"):
        external_data.check(graph(tmp_path, place, hidden=hidden))


def test_the_default_of_a_functions_attribute_is_looked_at(tmp_path):
    model = onnx.load(graph(tmp_path, "../private"), load_external_data=False)
    function = helper.make_function("own", "f", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [])
    function.attribute_proto.append(helper.make_attribute("value", model.graph.initializer[0]))
    del model.graph.initializer[:]
    model.functions.append(function)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="outside of its folder"):
        external_data.check(tmp_path / "model.onnx")


def test_a_pipe_in_the_place_of_weights_is_refused(tmp_path):
    os.mkfifo(tmp_path / "weights")
    with pytest.raises(ArtifactError, match="weights is a named pipe, no regular file"):
        external_data.check(graph(tmp_path, "weights"))


def test_weights_beside_the_file_are_taken_and_missing_ones_told(tmp_path):
    with pytest.raises(ArtifactError, match="weights, which is missing"):
        external_data.check(graph(tmp_path, "weights"))
    (tmp_path / "weights").write_bytes(bytes(96))
    external_data.check(graph(tmp_path, "weights"))


def test_import_opens_no_file_outside_of_the_folder(tmp_path):
    (tmp_path / "private").write_bytes(bytes(96))
    (tmp_path / "model").mkdir()
    (tmp_path / "names").write_text("a\nb\n")
    file = graph(tmp_path / "model", "../private")
    with pytest.raises(ArtifactError, match="outside of its folder"):
        tlopt.import_model(file, tmp_path / "out", classes=tmp_path / "names", image_size=8)
    assert not (tmp_path / "out").exists()


def test_an_artifact_takes_its_weights_from_files_that_its_card_lists(tmp_path):
    graph(tmp_path, "weights")
    card = Card(
        kind="onnx", model="onnx:model.onnx", precision="fp32", classes=("a", "b"), preprocess=Preprocess(size=2)
    )
    seal(tmp_path, card)
    (tmp_path / "weights").write_bytes(bytes(96))
    with pytest.raises(ArtifactError, match="weights, which its card does not list"):
        Artifact.load(tmp_path)
    seal(tmp_path, card)
    assert Artifact.load(tmp_path).card.kind == "onnx"


def test_a_file_without_such_weights_is_not_parsed(exported, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("parsed")

    monkeypatch.setattr(onnx, "load", refuse)
    external_data.check(exported.payload(".onnx"))
