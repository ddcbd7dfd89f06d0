"""What a graph says of its batch is tried: in shape and in value."""

import numpy as np
import pytest
from foreign_onnx import Net, agree, brought, by_itself, some

import tlopt
from tlopt.errors import ArtifactError


def burned(net, shape=(1, 8)):
    """Reshape to one image, as older exporters wrote it."""
    flatten = next(node for node in net.nodes if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    flatten.input.append(net.constant(shape, np.int64))
    return net


def test_a_free_batch_stays_free(tmp_path):
    artifact = brought(Net().save(tmp_path / "m.onnx", shape=(1, 3, 16, 16), out=(1, 3)), tmp_path)
    assert artifact.card.onnx.fixed_batch == 0
    agree(artifact, tmp_path / "m.onnx")


@pytest.mark.parametrize("batch", ["n", 1])
@pytest.mark.parametrize("shape", [(1, 8), (1, -1)])
def test_a_batch_that_is_burned_in_is_fixed(tmp_path, photos, batch, shape):
    file = burned(Net(), shape).save(tmp_path / "m.onnx", shape=(batch, 3, 16, 16), out=(batch, 3))
    artifact = brought(file, tmp_path)
    assert artifact.card.onnx.fixed_batch == 1
    agree(artifact, file)
    if (batch, shape) == ("n", (1, 8)):
        made = tlopt.quantize(artifact, tmp_path / "q", images=photos, samples=4, rounding="nearest")
        assert made.card.onnx.fixed_batch == 1


def test_a_batch_of_several_is_kept(tmp_path):
    file = burned(Net(), (4, 8)).save(tmp_path / "m.onnx", shape=(4, 3, 16, 16), out=(4, 3))
    assert brought(file, tmp_path).card.onnx.fixed_batch == 4


def test_a_free_batch_that_takes_four_images_is_found(tmp_path):
    file = burned(Net(), (4, 8)).save(tmp_path / "m.onnx")
    artifact = brought(file, tmp_path)
    assert artifact.card.onnx.fixed_batch == 4
    plain = Net().save(tmp_path / "plain.onnx")
    with tlopt.open_runner(artifact) as runner:
        found = runner(artifact.card.preprocess.normalize(some(4)))
    np.testing.assert_allclose(found, by_itself(plain, some(4) / 255), atol=1e-4)  # of float32


def test_an_answer_without_a_batch_gets_one(tmp_path):
    net = Net()
    file = net.end("Reshape", net.constant([3], np.int64)).save(tmp_path / "m.onnx", shape=(1, 3, 16, 16), out=(3,))
    artifact = brought(file, tmp_path)
    assert artifact.card.onnx.fixed_batch == 1
    agree(artifact, file)


def over_the_batch(net):
    """Normalize by the mean of the batch, as in training."""
    mean = net.add("ReduceMean", net.answer, axes=[0], keepdims=1)
    net.answer = net.add("Sub", net.answer, mean)
    return net


@pytest.mark.parametrize("make", [over_the_batch, lambda net: net.end("Softmax", axis=0)])
def test_answers_that_depend_on_the_other_images_are_refused(tmp_path, make):
    with pytest.raises(ArtifactError, match="its answers depend on the other images of a batch") as error:
        brought(make(Net()).save(tmp_path / "m.onnx"), tmp_path)
    assert "evaluation mode" in error.value.hint
    assert not (tmp_path / "art").exists()


def test_a_fixed_batch_whose_images_mix_is_refused(tmp_path):
    file = burned(over_the_batch(Net()), (4, 8)).save(tmp_path / "m.onnx", shape=(4, 3, 16, 16), out=(4, 3))
    with pytest.raises(ArtifactError, match="depend on the other images"):
        brought(file, tmp_path)


def test_batch_normalization_in_training_mode_is_named(tmp_path):
    from onnx import helper

    net = Net(opset=15)
    ones = [net.constant(np.full(8, value)) for value in (1, 0, 0, 1)]
    relu = next(i for i, node in enumerate(net.nodes) if node.op_type == "Relu")
    norm = helper.make_node(
        "BatchNormalization", ["t0", *ones], ["normed", "new_mean", "new_var"], training_mode=1, epsilon=1e-3
    )
    net.nodes.insert(relu, norm)
    net.nodes[relu + 1].input[0] = "normed"
    with pytest.raises(ArtifactError, match="training"):
        brought(net.save(tmp_path / "m.onnx"), tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_ranges_that_are_chosen_for_each_batch_take_one_image_at_a_time(tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    net = Net()
    net.nodes[-1].op_type = "MatMul"
    del net.nodes[-1].attribute[:]
    weight = net.constant(np.random.default_rng(0).normal(0, 6, (8, 3)))
    net.nodes[-1].input[1] = weight
    del net.nodes[-1].input[2:]
    quantize_dynamic(net.save(tmp_path / "m.onnx"), tmp_path / "q.onnx")
    artifact = brought(tmp_path / "q.onnx", tmp_path)
    assert (artifact.card.precision, artifact.card.onnx.fixed_batch) == ("int8", 1)
    agree(artifact, tmp_path / "q.onnx", some(2))


def test_answers_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not finite"):
        brought(Net().end("Sqrt").end("Log").save(tmp_path / "m.onnx"), tmp_path)


@pytest.mark.parametrize("kind", ["Dropout", "RandomNormalLike"])
def test_answers_that_are_drawn_anew_each_time_are_refused(tmp_path, kind):
    net = Net()
    if kind == "Dropout":  # exported as it trains
        net.end("Dropout", net.constant(0.5), net.constant(True, bool))
    else:
        net.answer = net.add("Add", net.answer, net.add(kind, net.answer))
    with pytest.raises(ArtifactError, match=rf"answers to the same image differ .* \({kind}\)"):
        brought(net.save(tmp_path / "m.onnx"), tmp_path)


def test_dropout_that_does_nothing_is_taken(tmp_path):
    file = Net().end("Dropout").save(tmp_path / "m.onnx")
    agree(brought(file, tmp_path), file)
