"""The image and the answer of a file are found, or what is wrong with them is said in words."""

import numpy as np
import onnx
import pytest
from foreign_onnx import SIDE, Net, agree, brought, by_itself, said, some
from onnx import TensorProto, helper

import tlopt
from tlopt.errors import ArtifactError, SettingError


def test_the_image_is_found_behind_the_weights(tmp_path):
    net = Net(opset=9)
    file = net.save(tmp_path / "m.onnx", weights=True)
    artifact = brought(file, tmp_path)
    agree(artifact, file)
    graph = onnx.load(artifact.payload(".onnx")).graph
    assert [value.name for value in graph.input] == ["images"]


def test_names_that_import_gives_may_be_taken_already(tmp_path):
    inner = Net(answer="logits").end("Identity")
    data = Net(image="pre")
    data.add("Identity", "data", out="images", first=True)
    data.nodes[1].input[0] = "images"
    data.image = "data"
    weight = Net()
    weight.constants[0].name = weight.nodes[0].input[1] = "logits"
    swapped = Net(image="logits", answer="images")
    for net in (inner, data, weight, swapped):
        file = net.save(tmp_path / "m.onnx")
        agree(brought(file, tmp_path), file)


def test_renaming_follows_into_branches(tmp_path):
    net = Net(image="pre")
    value = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
    same, turned = (
        helper.make_graph([helper.make_node(kind, ["data"], ["branch"])], kind, [], [value])
        for kind in ("Identity", "Neg")
    )
    net.nodes.insert(
        0, helper.make_node("If", [net.constant(True, bool)], ["pre"], then_branch=same, else_branch=turned)
    )
    net.image = "data"
    file = net.save(tmp_path / "m.onnx")
    agree(brought(file, tmp_path), file)


@pytest.mark.parametrize(
    "type_", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8]
)
def test_other_types_of_images_are_cast(tmp_path, type_):
    net = Net(image="pre", spread=0.02)
    net.add("Cast", "data", out="pre", first=True, to=TensorProto.FLOAT)
    net.image = "data"
    file = net.save(tmp_path / "m.onnx", type_=type_)
    whole = type_ not in (TensorProto.FLOAT16, TensorProto.DOUBLE)
    given = {"mean": None, "std": None} if whole else {}
    artifact = brought(file, tmp_path, **given)
    dtype = helper.tensor_dtype_to_np_dtype(type_)
    if type_ == TensorProto.FLOAT16:
        wanted = by_itself(file, some() / 255, dtype)
        np.testing.assert_allclose(said(artifact, some()), wanted, atol=1e-3)  # of half precision
    else:  # pixels of 0 to 255, if the image is of whole numbers
        agree(artifact, file, scale=1 if whole else 255, dtype=dtype)


def test_answers_in_half_precision_are_cast(tmp_path):
    file = Net().end("Cast", to=TensorProto.FLOAT16).save(tmp_path / "m.onnx", out_type=TensorProto.FLOAT16)
    artifact = brought(file, tmp_path)
    found = said(artifact, some())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_itself(file, some() / 255), atol=1e-2)  # of half precision


@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), ("n", "c", "h", "w"), ("n", 3, SIDE, SIDE)])
def test_free_sides_take_the_chosen_size(tmp_path, shape):
    file = Net().save(tmp_path / "m.onnx", shape=shape)
    assert brought(file, tmp_path, image_size=SIDE).card.preprocess.size == SIDE


@pytest.mark.parametrize("shape", [("n", SIDE, SIDE, 3), ("n", "h", "w", "c")])
def test_channels_last_are_found(tmp_path, shape):
    net = Net(image="pre")
    net.add("Transpose", "data", out="pre", first=True, perm=[0, 3, 1, 2])
    net.image = "data"
    file = net.save(tmp_path / "m.onnx", shape=shape)
    artifact = brought(file, tmp_path, image_size=SIDE)
    assert artifact.card.preprocess.layout == "nhwc"
    agree(artifact, file, nhwc=True)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("n", 4, SIDE, SIDE), "images of 4 channels"),
        ((3, SIDE, SIDE), "has 3 axes; an image's has 4"),
    ],
)
def test_images_that_cannot_be_fed_are_refused_by_what_they_are(tmp_path, shape, message):
    net = Net()
    net.nodes[0].input[0] = "three"
    net.add("Expand", "x", net.constant([1, 3, SIDE, SIDE], np.int64), out="three", first=True)
    if len(shape) == 3:
        net.add("Unsqueeze", "x", net.constant([0], np.int64), out="four", first=True)
        net.nodes[1].input[0] = "four"
    with pytest.raises(ArtifactError, match=message):
        brought(net.save(tmp_path / "m.onnx", shape=shape), tmp_path)
    assert not (tmp_path / "art").exists()


def two_outputs(tmp_path):
    net = Net()
    net.add("Neg", "y", out="other")
    return net.save(tmp_path / "m.onnx", outputs=[helper.make_tensor_value_info("other", TensorProto.FLOAT, ("n", 3))])


def test_of_several_outputs_one_is_named(tmp_path):
    file = two_outputs(tmp_path)
    with pytest.raises(ArtifactError, match=r"has 2 outputs \('y', 'other'\)") as error:
        brought(file, tmp_path)
    assert "--output NAME" in error.value.hint
    plain = brought(file, tmp_path, output="y")
    wanted = said(plain, some())
    assert len(onnx.load(plain.payload(".onnx")).graph.output) == 1
    np.testing.assert_array_equal(said(brought(file, tmp_path, output="other"), some()), -wanted)
    with pytest.raises(SettingError, match="no tensor 'othr'"):
        brought(file, tmp_path, output="othr")


def test_a_tensor_inside_may_be_the_answer(tmp_path):
    file = Net().end("ArgMax", axis=1, keepdims=0).save(tmp_path / "m.onnx", out=("n",), out_type=TensorProto.INT64)
    with pytest.raises(ArtifactError, match="of type int64; a classifier answers with floats"):
        brought(file, tmp_path)
    agree(brought(file, tmp_path, output="y"), Net().save(tmp_path / "plain.onnx"))


def test_an_input_that_the_answer_needs_besides_the_image_is_named(tmp_path):
    net = Net()
    net.answer = net.add("Mul", "y", "keep")
    keep = helper.make_tensor_value_info("keep", TensorProto.FLOAT, (1,))
    file = net.save(tmp_path / "m.onnx", inputs=[keep])
    for name in (None, "x"):
        with pytest.raises(ArtifactError, match=r"has 2 inputs \('keep', 'x'\)"):
            brought(file, tmp_path, input=name)
    with pytest.raises(SettingError, match="no input 'xx'"):
        brought(file, tmp_path, input="xx")
    agree(brought(file, tmp_path, output="y"), Net().save(tmp_path / "plain.onnx"))


@pytest.mark.parametrize("axes", [[2, 3], [1, 2]])
def test_axes_of_length_one_are_left_out(tmp_path, axes):
    net = Net()
    net.end("Unsqueeze", net.constant(axes, np.int64))
    file = net.save(tmp_path / "m.onnx", out=("n", *(("c", 1, 1) if axes == [2, 3] else (1, 1, "c"))))
    agree(brought(file, tmp_path), file)


def test_an_answer_that_is_no_row_of_classes_is_refused(tmp_path):
    net = Net()
    net.answer = "t1"
    with pytest.raises(ArtifactError, match=r"answers with the shape \(1, 8, 8, 8\)"):
        brought(net.save(tmp_path / "m.onnx", out=("n", 8, 8, 8)), tmp_path)
    net = Net()
    net.end("ReduceMean", axes=[1], keepdims=1)
    with pytest.raises(ArtifactError, match="one number for an image"):
        brought(net.save(tmp_path / "m.onnx", out=("n", 1)), tmp_path)


def test_what_was_assumed_is_said(tmp_path, caplog):
    file = Net().save(tmp_path / "m.onnx")
    caplog.set_level("INFO", "tlopt")
    brought(file, tmp_path)
    assert "16 px, bicubic, crop 1, mean 0, 0, 0, std 1, 1, 1, RGB, NCHW; 3 classes, logits" in caplog.text
    brought(file, tmp_path, mean=None, std=None)
    assert "Assumed, as the file does not say it: mean, std, channels" in caplog.text
    assert "mean 0.485, 0.456, 0.406" in caplog.text


def test_a_preset_says_how_images_are_fed(tmp_path):
    artifact = brought(Net().save(tmp_path / "m.onnx"), tmp_path, mean=None, std=None, preset="keras:vgg16")
    preprocess = artifact.card.preprocess
    assert preprocess.channels == "bgr"
    assert preprocess.normalize(np.full((1, SIDE, SIDE, 3), 255, np.uint8))[0, :, 0, 0] == pytest.approx(
        [255 - 103.939, 255 - 116.779, 255 - 123.68], abs=1e-3
    )


def test_images_show_that_an_assumption_is_absurd(tmp_path, photos, caplog):
    net = Net(spread=1e-4)
    with caplog.at_level("WARNING", "tlopt"):
        brought(net.save(tmp_path / "m.onnx"), tmp_path, images=photos)
    assert "looks wrong" in caplog.text
    assert "the mean probability of the best class is only 0.33" in caplog.text


def test_precision_and_opset_are_those_of_the_file(tmp_path):
    card = brought(Net(opset=15).save(tmp_path / "m.onnx"), tmp_path).card
    assert (card.precision, card.onnx.opset) == ("fp32", 15)


def test_an_artifact_of_a_file_is_quantized(tmp_path, photos):
    artifact = brought(Net(opset=9).save(tmp_path / "m.onnx", weights=True), tmp_path)
    made = tlopt.quantize(artifact, tmp_path / "q", images=photos, samples=4, rounding="nearest")
    assert made.card.precision == "int8"


@pytest.mark.parametrize("left_out", ["shape", "type"])
def test_an_output_that_is_not_described_is_looked_up(tmp_path, left_out):
    file = Net().save(tmp_path / "net.onnx")
    wanted = by_itself(file, some() / 255)
    model = onnx.load(file)
    if left_out == "shape":
        model.graph.output[0].type.tensor_type.ClearField("shape")
    else:
        model.graph.output[0].ClearField("type")
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    np.testing.assert_allclose(said(brought(tmp_path / "bare.onnx", tmp_path), some()), wanted, atol=1e-4)
