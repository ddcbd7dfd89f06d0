"""Networks that are no classifiers are imported as they are."""

from __future__ import annotations

from dataclasses import replace

import any_nets
import numpy as np
import onnx
import pytest
from any_nets import HIGH, WIDE, AnyNet, brought
from onnx import TensorProto, helper
from PIL import Image

import tlopt
from tlopt.artifact import Artifact
from tlopt.backends import open_call
from tlopt.cards.card import Card
from tlopt.errors import ArtifactError, ImagesError, SettingError
from tlopt.sessions import open_session


def by_itself(file, inputs):
    session = open_session(file)
    return session.run(None, {session.get_inputs()[0].name: inputs})


def some(artifact, count=3):
    shape = (count, *artifact.card.preprocess.sides, len(artifact.card.preprocess.mean))
    pixels = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    return artifact.card.preprocess.normalize(pixels)


@pytest.mark.parametrize(
    ("net", "outputs"),
    [
        (any_nets.detector, ["boxes (n, 24, 4)", "scores (n, 24, 2)", "classes (n, 24) int64"]),
        (any_nets.segmenter, ["mask (n, 1, 16, 24)"]),
        (any_nets.embedder, ["embedding (n, 8)"]),
        (any_nets.choosing, ["kept (any, 5)"]),
    ],
)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_network_answers_as_its_file_does(tmp_path, net, outputs, backend):
    artifact = brought(net(), tmp_path)
    card = artifact.card
    assert card.task == "any"
    assert card.classes == ()
    assert card.preprocess.sides == (HIGH, WIDE)
    assert card.preprocess.fit == "stretch"
    assert [tlopt.outputs.in_words(output) for output in card.outputs] == outputs
    assert card.onnx.fixed_batch == (1 if net is any_nets.choosing else 0)
    inputs = some(artifact)
    with open_call(artifact, backend) as run:
        found = run(inputs)
    assert len(found) == 3
    for answer, image in zip(found, inputs, strict=True):
        wanted = by_itself(tmp_path / "art.onnx", image[None])
        for values, expected, output in zip(answer, wanted, card.outputs, strict=True):
            np.testing.assert_allclose(values, expected[0] if output.batched else expected, atol=1e-5)


def test_the_card_is_read_again_and_an_old_one_is_of_a_classifier(tmp_path):
    artifact = brought(any_nets.detector(), tmp_path)
    again = Card.from_json(artifact.card.to_json())
    assert again == artifact.card
    broken = replace(artifact.card, details=replace(artifact.card.onnx, outputs=()))
    with pytest.raises(ArtifactError, match="outputs names no output"):
        Card.from_json(broken.to_json())


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_floats_of_other_types_are_answered_as_float32(tmp_path, kind):
    net = AnyNet()
    type_ = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    net.output(net.add("Cast", net.deep, to=type_), "mask", type_)
    artifact = brought(net, tmp_path)
    assert artifact.card.outputs[0].dtype == "float32"
    with open_call(artifact) as run:
        (answer,) = run(some(artifact, 1))
    np.testing.assert_allclose(answer[0], by_itself(tmp_path / "art.onnx", some(artifact, 1))[0][0], atol=1e-2)


def test_some_outputs_or_tensors_inside_are_kept(tmp_path):
    net = any_nets.detector()
    inside = net.deep
    artifact = brought(net, tmp_path, output=f"scores,{inside}")
    assert [output.name for output in artifact.card.outputs] == ["scores", inside]
    assert "boxes" not in {name for node in onnx.load(artifact.payload(".onnx")).graph.node for name in node.output}
    with pytest.raises(SettingError, match="has no tensor 'scoress'") as error:
        brought(net, tmp_path, "other", output="scoress")
    assert "'scores'" in error.value.hint
    with pytest.raises(SettingError, match="twice"):
        brought(net, tmp_path, "other", output="scores,scores")


def test_a_batch_that_is_fixed_stays_so(tmp_path):
    net = AnyNet()
    flat = net.add("Reshape", net.conv(net.deep, 8, 2, kernel=1), net.constant([2, 48], np.int64))
    net.output(flat, "embedding")
    artifact = brought(net, tmp_path, saved={"shape": (2, 3, HIGH, WIDE)})
    assert artifact.card.onnx.fixed_batch == 2
    inputs = some(artifact, 3)
    with open_call(artifact) as run:
        found = run(inputs)
    wanted = by_itself(tmp_path / "art.onnx", inputs[:2])[0]
    np.testing.assert_allclose([found[0][0], found[1][0]], wanted, atol=1e-6)
    assert found[2][0].shape == (48,)


def test_rows_of_several_images_together_are_refused(tmp_path):
    net = AnyNet()
    flat = net.add("Reshape", net.conv(net.deep, 8, 2, kernel=1), net.constant([2, 48], np.int64))
    net.output(net.add("ReduceMean", flat, axes=[0], keepdims=1), "embedding")
    with pytest.raises(ArtifactError, match="rows that belong to several"):
        brought(net, tmp_path, saved={"shape": (2, 3, HIGH, WIDE)})


def test_a_network_of_any_size_needs_one(tmp_path):
    shape = ("n", 3, "h", "w")
    with pytest.raises(SettingError, match="does not say the size"):
        brought(any_nets.segmenter(), tmp_path, saved={"shape": shape})
    artifact = brought(any_nets.segmenter(), tmp_path, saved={"shape": shape}, image_size=32, image_width=48)
    assert artifact.card.outputs[0].shape == (1, 32, 48)
    dims = onnx.load(artifact.payload(".onnx")).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [0, 3, 32, 48]


def test_another_size_than_the_declared_one_is_tried(tmp_path):
    artifact = brought(any_nets.segmenter(), tmp_path, image_size=32)
    assert artifact.card.outputs[0].shape == (1, 32, 32)
    with pytest.raises(ArtifactError, match="cannot be run on images of 32 px in nchw, 1 at once"):
        brought(any_nets.detector(), tmp_path, "other", image_size=32)


def test_grey_images_of_another_type_are_fed(tmp_path):
    artifact = brought(any_nets.embedder(channels=1), tmp_path, preset="torchvision")
    assert artifact.card.preprocess.channels == "grey"
    assert artifact.card.preprocess.mean == pytest.approx((0.449,), abs=1e-3)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    fed = artifact.card.preprocess(image)
    assert fed.shape == (1, HIGH, WIDE)
    grey = np.asarray(image.convert("L").resize((WIDE, HIGH), Image.Resampling.BICUBIC), np.float32)
    np.testing.assert_allclose(fed[0], (grey / 255 - 0.449) / 0.226, atol=2e-3)


def test_bytes_with_the_channels_last_are_fed_as_they_are(tmp_path):
    net = any_nets.embedder(image="pre")
    planes = net.add("Transpose", "x", perm=[0, 3, 1, 2])
    net.add("Cast", planes, to=TensorProto.FLOAT, out="pre")
    net.nodes = [*net.nodes[-2:], *net.nodes[:-2]]
    net.image = "x"
    artifact = brought(net, tmp_path, preset=None, saved={"shape": ("n", "h", "w", 3), "type_": TensorProto.UINT8},
                       image_size=HIGH, image_width=WIDE)  # fmt: skip
    assert artifact.card.preprocess.folded
    inputs = some(artifact)
    assert inputs.dtype == np.uint8
    with open_call(artifact) as run:
        found = run(inputs)
    np.testing.assert_allclose([one[0] for one in found], by_itself(tmp_path / "art.onnx", inputs)[0], atol=1e-5)


def test_what_is_for_classifiers_is_refused(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("a\nb")
    for given in ({"classes": names}, {"answers": "logits"}):
        with pytest.raises(SettingError, match="classes and answers are for classifiers"):
            brought(any_nets.detector(), tmp_path, **given)
    with pytest.raises(SettingError, match="describe an ONNX file"):
        tlopt.import_model(None, tmp_path / "a", model="pip:efficientnet_lite0", task="any")


@pytest.mark.parametrize("defect", ["text", "two inputs", "nothing finite", "random"])
def test_what_cannot_be_used_is_said(tmp_path, defect):
    net = any_nets.embedder()
    if defect == "text":
        net.add("Constant", value=helper.make_tensor("t", TensorProto.STRING, [1], [b"a"]), out="best")
        net.outputs.append(helper.make_tensor_value_info("best", TensorProto.STRING, [1]))
        message = "no tensor of numbers"
    elif defect == "two inputs":
        net.output(net.add("Add", net.deep, "y"), "mask")
        message = "has 2 inputs"
    elif defect == "nothing finite":
        net.output(net.add("Log", net.add("Neg", net.add("Abs", net.deep))), "mask")
        message = "not finite"
    else:
        net.output(net.add("Add", net.deep, net.add("RandomNormalLike", net.deep)), "mask")
        message = "differ from run to run"
    if defect == "two inputs":
        file = net.save(tmp_path / "art.onnx")
        model = onnx.load(file)
        model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 8, 4, 6)))
        onnx.save(model, file)
        with pytest.raises(ArtifactError, match=message):
            tlopt.import_model(file, tmp_path / "art", task="any")
        return
    with pytest.raises(ArtifactError, match=message):
        brought(net, tmp_path)
    assert not (tmp_path / "art").exists()


def test_a_few_images_show_that_nothing_depends_on_them(tmp_path, caplog):
    folder = any_nets.images(tmp_path / "images", 3)
    net = AnyNet()
    net.output(net.add("Mul", net.deep, net.constant(0.0)), "mask")
    brought(net, tmp_path, images=folder)
    assert "all 3 images get the same outputs" in caplog.text
    with pytest.raises(ImagesError, match="does not exist"):
        brought(any_nets.segmenter(), tmp_path, "other", images=tmp_path / "nowhere")


def test_a_classifier_of_grey_images_that_are_no_squares(tmp_path):
    net = AnyNet(channels=1)
    flat = net.add("Flatten", net.add("GlobalAveragePool", net.deep), axis=1)
    net.output(flat, "classes")
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefgh"))
    file = net.save(tmp_path / "m.onnx")
    artifact = tlopt.import_model(file, tmp_path / "art", classes=names, mean=(0.1307,), std=(0.3081,))
    assert artifact.card.preprocess.sides == (HIGH, WIDE)
    assert artifact.card.preprocess.fit == "crop"
    assert artifact.card.preprocess.mean == (0.1307,)
    said = list(tlopt.predict(artifact, any_nets.images(tmp_path / "images", 2), top=1))
    inputs = artifact.card.preprocess(tmp_path / "images/00.png")[None]
    assert said[0].classes[0] == "abcdefgh"[by_itself(file, inputs)[0].argmax()]
    with pytest.raises(SettingError, match="three channels"):
        brought(any_nets.embedder(), tmp_path, "other", mean=(0.5,), std=(0.5,))


def test_an_old_digest_does_not_change_by_what_came_later(tmp_path):
    artifact = brought(any_nets.embedder(), tmp_path)
    card = artifact.card
    square = replace(card, preprocess=replace(card.preprocess, width=0, fit="crop"))
    assert Artifact(path=tmp_path, card=square).digest != artifact.digest
