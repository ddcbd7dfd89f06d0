"""What a graph answers is found out, kept, and taken for what it is."""

import numpy as np
import pytest
from foreign_onnx import Net, brought, by_itself, said, some
from PIL import Image

import tlopt
from tlopt import judging
from tlopt.show import show
from tlopt.training.teacher import open_teacher

one = np.float32(1)


def softmax(net):
    return net.end("Softmax", axis=1)


def spelled(net, *, shift):
    if shift:
        top = net.add("ReduceMax", net.answer, axes=[1], keepdims=1)
        net.answer = net.add("Sub", net.answer, top)
    powers = net.add("Exp", net.answer)
    total = net.add("ReduceSum", powers, net.constant([1], np.int64), keepdims=1)
    net.answer = net.add("Div", powers, total)
    return net


def sigmoid_by_hand(net):
    powers = net.add("Exp", net.add("Neg", net.answer))
    net.answer = net.add("Div", net.constant(one), net.add("Add", powers, net.constant(one)))
    return net


ENDS = {
    "nothing": (lambda net: net, "logits"),
    "softmax": (softmax, "probabilities"),
    "softmax, identity": (lambda net: softmax(net).end("Identity"), "probabilities"),
    "softmax, reshape": (lambda net: softmax(net).end("Reshape", net.constant([-1, 3], np.int64)), "probabilities"),
    "softmax, cast": (lambda net: softmax(net).end("Cast", to=11).end("Cast", to=1), "probabilities"),
    "softmax, squeeze": (
        lambda net: net.end("Unsqueeze", net.constant([2], np.int64)).end("Softmax", axis=1).end(
            "Squeeze", net.constant([2], np.int64)), "probabilities"),
    "exp, sum, div": (lambda net: spelled(net, shift=False), "probabilities"),
    "sub, exp, sum, div": (lambda net: spelled(net, shift=True), "probabilities"),
    "log-softmax": (lambda net: net.end("LogSoftmax", axis=1), "log_probabilities"),
    "log of softmax": (lambda net: softmax(net).end("Log"), "log_probabilities"),
    "sigmoid": (lambda net: net.end("Sigmoid"), "sigmoids"),
    "sigmoid, identity": (lambda net: net.end("Sigmoid").end("Identity"), "sigmoids"),
    "1 / (1 + exp(-x))": (sigmoid_by_hand, "sigmoids"),
    "clip of logits": (lambda net: net.end("Relu"), "logits"),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_what_a_graph_answers_is_found(tmp_path, end):
    make, wanted = ENDS[end]
    file = make(Net(spread=1)).save(tmp_path / "m.onnx")
    artifact = brought(file, tmp_path)
    assert artifact.card.onnx.answers == artifact.card.answers == wanted
    plain = by_itself(Net(spread=1).save(tmp_path / "logits.onnx"), some() / 255)
    found = judging.probabilities(said(artifact, some()), wanted)
    if wanted == "sigmoids":
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-plain)), atol=1e-5)
    elif end != "clip of logits":
        np.testing.assert_allclose(found, judging.softmax(plain), atol=1e-5)


def test_the_user_may_say_what_a_graph_answers(tmp_path):
    file = Net(spread=1).end("Sigmoid").save(tmp_path / "m.onnx")
    assert brought(file, tmp_path, answers="logits").card.answers == "logits"


def test_show_says_what_a_graph_answers_and_how_it_is_fed(tmp_path):
    artifact = brought(softmax(Net()).save(tmp_path / "m.onnx"), tmp_path)
    notes = show(artifact).notes
    assert "Answers: probabilities" in notes
    assert "Input: 16 px, bicubic, crop 1, mean 0, 0, 0, std 1, 1, 1, RGB, NCHW" in notes


@pytest.mark.parametrize("end", ["softmax", "log-softmax", "sigmoid", "nothing"])
def test_logits_behind_answers_give_the_same_probabilities(tmp_path, end):
    make, kind = ENDS[end]
    found = by_itself(make(Net(spread=1)).save(tmp_path / "m.onnx"), some() / 255)
    plain = by_itself(Net(spread=1).save(tmp_path / "l.onnx"), some() / 255)
    logits = judging.as_logits(found, kind)
    shift = logits - plain if kind != "sigmoids" else logits - plain + 0 * plain
    np.testing.assert_allclose(shift - shift.mean(1, keepdims=True), 0, atol=1e-4)  # of float32 below 1
    assert judging.noise(logits, plain) < 1e-6


@pytest.fixture
def photos_16(tmp_path):
    for i, name in enumerate("abc"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for j, pixels in enumerate(some(9)[3 * i : 3 * i + 3]):
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{j}.png")
    return tmp_path / "photos"


def test_predict_and_evaluate_say_what_the_file_says(tmp_path, photos_16):
    plain = brought(Net(spread=1).save(tmp_path / "l.onnx"), tmp_path)
    wanted = [one.probabilities for one in tlopt.predict(plain, photos_16)]
    views = tlopt.evaluate(plain, images=photos_16, split="all", tta="flip")
    error = tlopt.evaluate(plain, images=photos_16, split="all").calibration_error
    artifact = brought(softmax(Net(spread=1)).save(tmp_path / "m.onnx"), tmp_path)
    np.testing.assert_allclose([one.probabilities for one in tlopt.predict(artifact, photos_16)], wanted, atol=1e-5)
    found = tlopt.evaluate(artifact, images=photos_16, split="all", tta="flip")
    np.testing.assert_allclose(found.outputs.probabilities, views.outputs.probabilities, atol=1e-5)
    assert tlopt.evaluate(artifact, images=photos_16, split="all").calibration_error == pytest.approx(error, abs=1e-5)


def test_the_mean_of_views_is_that_of_their_probabilities():
    views = np.array([[[0.9, 0.2], [0.5, 0.4]]], np.float32)
    np.testing.assert_allclose(judging.mean_of_views(views, "sigmoids"), [[0.7, 0.3]], atol=1e-6)
    logs = np.log(np.array([[[0.9, 0.1], [0.5, 0.5]]], np.float32))
    for kind in ("logits", "log_probabilities"):
        np.testing.assert_allclose(np.exp(judging.mean_of_views(logs, kind)), [[0.7, 0.3]], atol=1e-6)


def test_a_teacher_that_answers_probabilities_teaches_what_it_says(tmp_path):
    import torch

    artifact = brought(softmax(Net(spread=1)).save(tmp_path / "m.onnx"), tmp_path)
    plain = by_itself(Net(spread=1).save(tmp_path / "l.onnx"), some() / 255)
    own = artifact.card.preprocess
    with open_teacher(
        artifact.path, classes=artifact.card.classes, student=own, features=False, runner=tlopt.open_runner
    ) as teacher:
        taught = teacher(torch.from_numpy(own.normalize(some()))).numpy()
    np.testing.assert_allclose(judging.softmax(taught), judging.softmax(plain), atol=1e-5)


def test_quantize_keeps_what_a_graph_answers(tmp_path, photos_16):
    artifact = brought(softmax(Net(spread=1)).save(tmp_path / "m.onnx"), tmp_path)
    made = tlopt.quantize(artifact, tmp_path / "q", images=photos_16, samples=4, rounding="nearest")
    assert made.card.answers == "probabilities"
    assert made.card.quantized.measured.snr_db > 10  # of the logits behind both


def test_an_engine_keeps_what_its_graph_answers(tmp_path):
    from tlopt.engine import flavour

    if flavour.problem("rtx"):
        pytest.skip(flavour.problem("rtx"))
    artifact = brought(softmax(Net(spread=1)).save(tmp_path / "m.onnx"), tmp_path)
    assert tlopt.build(artifact, tmp_path / "engine", flavour="rtx", target=("sm89",)).card.answers == "probabilities"
