"""What a network's numbers mean is found by its last step, and kept in the card."""

import pytest
import tiny_models
import torch
from torch import nn

import tlopt
from tlopt.errors import PluginError, StageError
from tlopt.networks import ending


class Spelled(nn.Module):
    """A softmax in other words."""

    def forward(self, logits):
        powers = (logits - logits.amax(1, keepdim=True)).exp()
        return powers / powers.sum(1, keepdim=True)


ENDS = {
    "logits": nn.Identity(),
    "probabilities": nn.Softmax(1),
    "log_probabilities": nn.LogSoftmax(1),
    "sigmoids": nn.Sequential(nn.Sigmoid(), nn.Flatten()),
}


def net(end, outputs=3):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs))
    return nn.Sequential(body, end)


@pytest.mark.parametrize("kind", ENDS)
def test_the_last_step_says_what_the_numbers_mean(kind):
    model = net(ENDS[kind]).requires_grad_(False)
    with torch.inference_mode():
        assert ending.kind_of(model, torch.randn(2, 3, 16, 16)) == kind
    assert model.training


@pytest.mark.parametrize(("end", "kind"), [
    (Spelled(), "probabilities"), (nn.Softmax(0), "logits"), (nn.ReLU(), "logits"), (nn.Hardsigmoid(), "sigmoids"),
])  # fmt: skip
def test_it_is_confirmed_by_the_numbers(end, kind):
    assert ending.kind_of(net(end), torch.randn(4, 3, 16, 16)) == kind


@pytest.fixture
def ends_in(monkeypatch):
    """Let the tiny network end in another step."""
    made = tiny_models.cnn

    def end(step):
        def ended(*given, **more):
            own = made(*given, **more)
            model = nn.Sequential(own, step)
            model.preprocess = own.preprocess
            return model

        monkeypatch.setattr(tiny_models, "cnn", ended)

    return end


@pytest.mark.parametrize("kind", ["sigmoids", "probabilities"])
def test_the_card_of_an_imported_network_says_it_and_training_refuses(ends_in, kind, tmp_path, photos):
    ends_in(ENDS[kind])
    (tmp_path / "names.txt").write_text("a\nb\nc")
    made = tlopt.import_model(None, tmp_path / "own", model="tiny_models:cnn", classes=tmp_path / "names.txt")
    assert made.card.answers == kind
    exported = tlopt.export(made, tmp_path / "fp32")
    assert exported.card.answers == kind
    word = {"sigmoids": "sigmoid", "probabilities": "softmax"}[kind]
    for run in (
        lambda: tlopt.finetune(photos, tmp_path / "x", model="tiny_models:cnn", image_size=32),
        lambda: tlopt.prune(made, tmp_path / "x", epochs=1, images=photos),
    ):
        with pytest.raises(StageError, match=f"tiny_models:cnn answers with {kind}; training takes logits") as raised:
            run()
        assert word in raised.value.hint
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("answers", [(1, 2), {"a": "b"}, object()])
def test_answers_in_training_without_a_tensor_are_refused_in_words(answers):
    with pytest.raises(PluginError, match=r"The network returns .* in training, and no tensor of logits"):
        ending.main_of(answers, nn.Identity())
