import copy
import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tlopt.training import distributed, pace
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.loop import Run, train
from tlopt.training.optimization import precision
from tlopt.training.outcome import records
from tlopt.training.outcome.history import History
from tlopt.training.resumption.checkpoint import Checkpoint
from tlopt.training.resumption.pausing import PausedError, asking

# 36 images: 4 steps an epoch, 52 in all, which is long enough for a trial.
AUTO = Hyperparameters(epochs=13, batch=8, lr=0.02, backbone_lr=0.5, frozen_norm=False, ema=0.9, moves="gradual")


@pytest.fixture(autouse=True)
def both(monkeypatch):
    """Let this processor, whatever it is, have two candidates."""
    monkeypatch.setattr(precision, "_computes_bf16", lambda: True)


def answering(monkeypatch, *names):
    """Let the trial choose these, one after the other, and return what it was shown."""
    left, seen = list(names), []

    def choose(times):
        seen.append(times)
        return left.pop(0), "a test says so"

    monkeypatch.setattr(pace, "choose", choose)
    monkeypatch.setattr(pace, "_HOPELESS", float("inf"))  # a network as tiny as this is slow in bf16
    return seen


def trained(net, parts, settings=AUTO, **more):
    net = copy.deepcopy(net)
    return net, train(net, *parts, settings, **more)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def named(name):
    return dataclasses.replace(AUTO, precision=name)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_trial_leaves_the_training_as_the_precision_by_name_would_have_it(net, parts, monkeypatch, name):
    seen = answering(monkeypatch, name)
    found, history = trained(net, parts)
    assert same(found, trained(net, parts, named(name))[0])
    (times,) = seen
    assert set(times) == {"fp32", "bf16"}
    assert history.precision == name
    assert history.trial["chosen"] == name
    assert history.trial["images"] == 8
    assert history.trial["turns"] >= 2


def test_the_two_precisions_give_other_weights(net, parts):
    # Otherwise the test above would prove nothing.
    assert not same(trained(net, parts, named("bf16"))[0], trained(net, parts, named("fp32"))[0])


def test_gradients_and_modes_are_as_before_a_trial(net, parts, monkeypatch):
    answering(monkeypatch, "bf16")
    run = Run(net, *parts, AUTO, None, None)
    net.fc.weight.grad = torch.full_like(net.fc.weight, 3.0)
    net.stem.requires_grad_(False)
    net.body.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    pace.settle(run, below=0, steps=100)
    assert torch.equal(net.fc.weight.grad, torch.full_like(net.fc.weight, 3.0))
    assert net.fc.bias.grad is None
    assert not net.stem[0].weight.requires_grad
    assert not net.body[1].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert run.arithmetic.name == "bf16"


def test_a_buffer_that_a_layer_puts_anew_is_put_back(net, parts, monkeypatch):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()), persistent=False)

        def forward(self, x):
            self.calls = self.calls + 1
            return x

    answering(monkeypatch, "fp32")
    net.drop = Counting()
    pace.settle(Run(net, *parts, AUTO, None, None), below=0, steps=100)
    assert net.drop.calls == 0


def test_a_short_training_is_not_timed(net, parts, monkeypatch):
    monkeypatch.setattr(pace, "_tried", None)
    _, history = trained(net, parts, dataclasses.replace(AUTO, epochs=4))
    assert history.precision == "fp32"
    assert "fewer than 50 steps" in history.trial["reason"]
    assert "step_ms" not in history.trial


def test_a_precision_by_name_is_not_timed(net, parts, monkeypatch):
    monkeypatch.setattr(pace, "_tried", None)
    assert trained(net, parts, named("bf16"))[1].trial == {}


def test_a_processor_without_bf16_has_nothing_to_time(net, parts, monkeypatch):
    monkeypatch.setattr(precision, "_computes_bf16", lambda: False)
    monkeypatch.setattr(pace, "_tried", None)
    history = trained(net, parts)[1]
    assert history.trial == {"chosen": "fp32", "reason": "the only candidate on this processor"}


def test_a_resumed_training_keeps_its_precision(net, parts, monkeypatch, tmp_path):
    answering(monkeypatch, "bf16")  # asked twice, it would fail
    with asking(lambda epochs: "pause" if len(epochs) == 2 else "go on"), pytest.raises(PausedError):
        trained(net, parts, checkpoints=Checkpoint(folder=tmp_path))
    resumed, history = trained(net, parts, checkpoints=Checkpoint(folder=tmp_path, resume=True))
    assert same(resumed, trained(net, parts, named("bf16"))[0])
    assert history.precision == "bf16"
    assert history.trial["reason"] == "a test says so"


def timed(monkeypatch, seconds):
    """Let the steps of each precision take given times: of the first two steps, then of the turns."""
    asked = []

    def given(run, name, images):
        asked.append((name, images))
        return seconds[name]

    monkeypatch.setattr(pace, "_seconds", given)
    return asked


def settled(net, parts, batch=8):
    run = Run(net, *parts, dataclasses.replace(AUTO, batch=batch), None, None)
    pace.settle(run, below=0, steps=100)
    return run.history.trial


def test_the_faster_precision_is_taken(net, parts, monkeypatch):
    timed(monkeypatch, {"fp32": 0.2, "bf16": 0.1})
    trial = settled(net, parts)
    assert trial["chosen"] == "bf16"
    assert trial["step_ms"] == {"fp32": 200, "bf16": 100}
    assert trial["reason"] == "a step takes 0.50 times as long as in fp32"


@pytest.mark.parametrize(("bf16", "turns"), [(0.08, 2), (0.13, 2), (0.095, 7), (0.105, 7)])
def test_turns_end_when_the_choice_is_clear(net, parts, monkeypatch, bf16, turns):
    timed(monkeypatch, {"fp32": 0.1, "bf16": bf16})
    assert settled(net, parts)["turns"] == turns


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [
        ([1.0, 1.1], [0.8, 0.85], True),
        ([1.0, 1.1], [0.8, 0.95], False),  # one step of it was not
        ([1.0, 1.0], [1.2, 1.05], False),
        ([1.0, 1.0], [1.2, 1.15], True),
        ([0.01, 0.01], [0.02, 0.02], False),  # so short that an interruption may have decided
    ],
)
def test_a_choice_is_clear_if_every_step_says_so(fp32, bf16, expected):
    assert pace.clear({"fp32": fp32, "bf16": bf16}) is expected


def test_a_precision_that_is_much_slower_gets_no_turns(net, parts, monkeypatch):
    asked = timed(monkeypatch, {"fp32": 0.1, "bf16": 1.0})
    assert settled(net, parts)["reason"] == "a first step takes 10.0 times as long in bf16"
    assert {images for _, images in asked} == {2}


@pytest.mark.parametrize(("seconds", "images"), [(0.01, 32), (0.1, 10), (0.5, 8)])
def test_long_steps_are_timed_on_fewer_images(net, parts, monkeypatch, seconds, images):
    asked = timed(monkeypatch, {"fp32": seconds / 2, "bf16": seconds * 0.99})
    assert settled(net, parts, batch=32)["images"] == images  # as many as take half a second, and no fewer than 8
    assert {number for _, number in asked} == {2, images}


def test_a_layer_that_knows_fp32_only_ends_no_training(net, parts):
    class Strict(nn.Module):
        def forward(self, x):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("expected scalar type Float")
            return x

    net.drop = Strict()
    trial = settled(net, parts)
    assert trial["chosen"] == "fp32"
    assert trial["reason"] == "no other one works with this network"


def test_all_processes_take_what_the_first_one_chose(net, parts, monkeypatch):
    timed(monkeypatch, {"fp32": 0.1, "bf16": 0.2})
    monkeypatch.setattr(distributed, "first", lambda _: (1.0,))  # what the leader sends: bf16
    assert settled(net, parts) == {"chosen": "bf16", "reason": "the first process chose it"}


@pytest.mark.parametrize(
    ("bf16", "chosen", "reason"),
    [
        ([0.5, 0.6, 0.5], "bf16", "a step takes 0.50 times as long as in fp32"),
        ([1.4, 1.5, 1.6], "fp32", "a step takes 1.50 times as long in bf16"),
        ([0.97, 0.97, 0.97], "fp32", "not faster beyond the noise"),  # by less than 5 %
        ([0.9, 0.9, 0.9], "fp32", "not faster beyond the noise"),  # one step of fp32 was as fast
    ],
)
def test_the_first_one_stays_unless_another_is_faster_beyond_the_noise(bf16, chosen, reason):
    found, why = pace.choose({"fp32": [1.0, 0.9, 1.1], "bf16": bf16})
    assert found == chosen
    assert reason in why


@pytest.mark.parametrize(
    ("found", "computes"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_candidates_follow_the_processors_instructions(monkeypatch, found, computes):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    names = precision.candidates("auto", torch.device("cpu"))
    assert names == (["fp32", "bf16"] if computes else ["fp32"])
    assert precision.candidates("bf16", torch.device("cpu")) == ["bf16"]


def test_an_older_torch_is_asked_for_each_instruction(monkeypatch):
    monkeypatch.undo()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert precision.candidates("auto", torch.device("cpu")) == ["fp32"]
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert precision.candidates("auto", torch.device("cpu")) == ["fp32", "bf16"]


def test_the_card_has_the_trial_and_the_payload_has_no_times(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "summary", lambda *_: {})
    monkeypatch.setattr(records.pictures, "confusion_matrix", lambda *_: None)
    trial = {"chosen": "bf16", "reason": "because", "step_ms": {"fp32": 2.0, "bf16": 1.0}}
    outcome = SimpleNamespace(
        logits=torch.eye(2).numpy(), labels=torch.arange(2).numpy(), answers=None, details={"precision": "bf16"},
        history=History(precision="bf16", trial=trial),
    )  # fmt: skip
    assert records.write(tmp_path, outcome, ("a", "b"))["precision_trial"] == trial
    (line,) = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"validation": {}, "precision": "bf16"}
