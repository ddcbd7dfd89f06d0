import numpy as np
import pytest
import torch
from torch.nn import functional

from tlopt.networks import head
from tlopt.training.inputs import predict
from tlopt.training.methods import probe

CPU = torch.device("cpu")


@pytest.fixture
def clouds():
    """Three overlapping clouds in eight dimensions of very different scales."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    centers = 1.5 * torch.randn(3, 8, generator=generator)
    points = centers[labels] + torch.randn(240, 8, generator=generator)
    return points * torch.logspace(-2, 2, 8), labels


@pytest.mark.slow
def test_the_probe_is_logistic_regression(clouds):
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, labels = clouds
    fitted = probe.fit(inputs, labels, classes=3)
    scaled = (inputs - inputs.mean(0)) / inputs.std(0, correction=0)
    reference = linear_model.LogisticRegression(C=1 / (fitted.penalty * len(inputs)), tol=1e-8, max_iter=10_000)
    expected = reference.fit(scaled, labels).predict_proba(scaled)
    # L-BFGS stops at a gradient of 1e-5.
    np.testing.assert_allclose(fitted.logits(inputs).softmax(1).numpy(), expected, atol=2e-3)


def test_the_penalty_of_the_least_loss_in_cross_validation_is_chosen(clouds):
    fitted = probe.fit(*clouds, classes=3)
    assert fitted.losses[fitted.penalty] == min(fitted.losses.values())
    assert set(fitted.losses) == set(probe.PENALTIES)


def test_a_class_with_one_image_needs_no_cross_validation(clouds):
    inputs, labels = clouds
    keep = torch.cat([(labels != 2).nonzero()[:, 0], (labels == 2).nonzero()[:1, 0]])
    fitted = probe.fit(inputs[keep], labels[keep], classes=3)
    assert fitted.losses == {}
    assert (fitted.logits(inputs[keep]).argmax(1) == labels[keep]).float().mean() > 0.9


def test_a_feature_that_never_varies_does_no_harm(clouds):
    inputs, labels = clouds
    fitted = probe.fit(torch.cat([inputs, torch.ones(240, 1)], 1), labels, classes=3)
    assert torch.isfinite(fitted.weight).all()


def test_the_folded_probe_answers_like_the_probe(net, parts, tmp_path):
    train, val = parts
    inputs, labels = probe.features(net, train, device=CPU)
    np.testing.assert_array_equal(labels, train.labels)
    fitted = probe.fit(inputs, torch.from_numpy(labels), classes=3)
    probe.fold(net, fitted)
    logits, _ = predict(net, val, device=CPU)
    expected = fitted.logits(probe.features(net, val, device=CPU)[0])
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_features_are_computed_once(net, parts, tmp_path):
    def features(model):
        return probe.features(model, parts[0], device=CPU, batch=4, cache=tmp_path / "features")

    first, labels = features(net)
    (file,) = (tmp_path / "features").iterdir()
    marked = first.clone()
    marked[4:] = 0  # the first batch alone is looked at again
    probe._write(file, marked, labels)
    again, same_labels = features(net)
    assert torch.equal(again, marked)
    np.testing.assert_array_equal(same_labels, labels)
    with torch.no_grad():
        net.stem[0].weight.mul_(2)
    other, _ = features(net)
    assert not torch.equal(first, other)
    assert len(list((tmp_path / "features").iterdir())) == 2


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "garbage", "folder"])
def test_damaged_features_are_computed_again(net, parts, tmp_path, caplog, damage):
    first, labels = probe.features(net, parts[0], device=CPU, batch=4, cache=tmp_path)
    (file,) = tmp_path.glob("*.npz")
    sound = file.read_bytes()
    content = {"empty": b"", "short": sound[: len(sound) // 2], "garbage": bytes(100)}.get(damage, sound)
    if damage == "flipped":  # beyond the first batch, which is looked at again anyway
        middle = len(sound) // 2
        content = sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :]
    file.write_bytes(content)
    if damage == "folder":
        file.unlink()
        file.mkdir()
    again, same = probe.features(net, parts[0], device=CPU, batch=4, cache=tmp_path)
    assert torch.equal(again, first)
    np.testing.assert_array_equal(same, labels)
    assert "damaged" in caplog.text
    if damage != "folder":
        assert file.read_bytes() == sound


def test_kept_features_are_not_taken_for_those_of_other_code(net, parts, tmp_path, monkeypatch):
    before, _ = probe.features(net, parts[0], device=CPU, cache=tmp_path)
    own = type(net).forward
    monkeypatch.setattr(type(net), "forward", lambda self, inputs: own(self, -inputs))  # same layers, same weights
    after, _ = probe.features(net, parts[0], device=CPU, cache=tmp_path)
    assert not torch.allclose(before, after)


def test_a_classifier_without_a_bias_gets_a_probe_without_one(clouds):
    inputs, labels = clouds
    fitted = probe.fit(inputs + 3 * inputs.std(0), labels, classes=3, bias=False)
    assert not fitted.bias.any()
    assert (fitted.logits(inputs + 3 * inputs.std(0)).argmax(1) == labels).float().mean() > 0.6


def test_features_are_what_enters_the_classifier(net):
    inputs = torch.randn(2, 3, 32, 32)
    net.eval()
    with head.features(net) as seen, torch.no_grad():
        logits = net(inputs)
    torch.testing.assert_close(functional.linear(seen[0], net.fc.weight, net.fc.bias), logits)


def test_a_part_of_the_images_is_drawn_by_class():
    labels = np.repeat([0, 1, 2], [900, 90, 3])
    drawn = probe.chosen(labels, 100, seed=0)
    assert np.bincount(labels[drawn]).tolist() == [91, 9, 3]
    assert len(set(drawn.tolist())) == len(drawn)
    np.testing.assert_array_equal(drawn, probe.chosen(labels, 100, seed=0))
    assert probe.chosen(labels, 993, seed=0) is None


def test_features_of_a_part_are_those_among_all(net, parts):
    whole, labels = probe.features(net, parts[0], device=CPU)
    some = np.array([1, 4, 30])
    part, truth = probe.features(net, parts[0], device=CPU, positions=some)
    torch.testing.assert_close(part, whole[some], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(truth, labels[some])
