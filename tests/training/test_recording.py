"""Recorded training steps, on a stand-in for CUDA graphs: what is replayed runs anew on the recorded tensors."""

import copy
import dataclasses
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from tlopt.errors import SettingError
from tlopt.training import loop, recording
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.loop import train
from tlopt.training.methods import transfer
from tlopt.training.recording import Recorder

# 32 steps
MANY = Hyperparameters(
    epochs=8, batch=8, lr=0.02, backbone_lr=0.5, frozen_norm=False, precision="fp32", cuda_graphs=True
)


class ByHand:
    """Replays by running the recorded work: its gradients and its loss stay in the same tensors, as a graph's do."""

    def __init__(self, model):
        self.model = model
        self.recorded = self.forgotten = 0
        self.refuses = ""

    @contextmanager
    def checked(self):
        if self.refuses == "check":
            raise RuntimeError("called a synchronizing operation")
        yield

    def record(self, work):
        if self.refuses == "record":
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        loss = work().detach().clone()
        held = {p: p.grad for p in self.model.parameters() if p.grad is not None}

        def again():
            for p in self.model.parameters():
                p.grad = None
            loss.copy_(work().detach())
            for p, gradient in held.items():
                gradient.copy_(p.grad)
                p.grad = None

        return again, loss

    def forget(self):
        self.forgotten += 1


@pytest.fixture
def recorded(monkeypatch):
    """Record on the processor, with what `device` says, unless it `refuses`; the recorders are in `made`."""
    made = []

    def recorder(passes, networks, device):
        del device
        made.append(Recorder(passes, networks, recorder.device(networks[0])))
        made[-1]._device.refuses = recorder.refuses
        return made[-1]

    recorder.refuses, recorder.device = "", ByHand
    monkeypatch.setattr(loop, "Recorder", recorder)
    monkeypatch.setattr(recording, "DEVICES", ("cpu",))
    recorder.made = made
    return recorder


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def trained(net, parts, settings=MANY, **more):
    net = copy.deepcopy(net)
    history = train(net, *parts, settings, **more)
    return net, history


def plainly(net, parts, settings=MANY, **more):
    return trained(net, parts, dataclasses.replace(settings, cuda_graphs=False), **more)[0]


@pytest.mark.parametrize(
    "more",
    [{}, {"frozen_norm": True}, {"mixup": 0.4}, {"ema": 0.9}, {"l2_sp": 0.1}, {"loss": "class-balanced"}],
    ids=str,
)
def test_a_replayed_training_is_the_training(net, parts, recorded, more):
    settings = dataclasses.replace(MANY, **more)
    found, history = trained(net, parts, settings)
    assert same(found, plainly(net, parts, settings))
    (one,) = recorded.made
    assert one.replayed == len(history.epochs) * 4 - 3  # one before, one recorded, one compared


def test_a_teacher_is_recorded_along(net, parts, recorded):
    settings = dataclasses.replace(MANY, teacher_features=0.5)
    teacher = copy.deepcopy(net)
    found, _ = trained(net, parts, settings, teacher=teacher)
    assert same(found, plainly(net, parts, settings, teacher=copy.deepcopy(teacher)))
    assert recorded.made[0].replayed


def test_other_layers_that_train_are_another_recording(net, parts, recorded):
    settings = dataclasses.replace(MANY, moves="gradual")
    found, _ = trained(net, parts, settings)
    assert same(found, plainly(net, parts, settings))
    assert len(recorded.made) > 1
    assert all(one.replayed for one in recorded.made)


@pytest.mark.parametrize("refuses", ["check", "record"])
def test_what_cannot_be_recorded_is_computed(net, parts, recorded, refuses):
    recorded.refuses = refuses
    found, _ = trained(net, parts)
    assert same(found, plainly(net, parts))
    (one,) = recorded.made
    assert not one.replayed
    assert one._device.forgotten == 1
    assert one.refused


class Stuck(ByHand):
    """Replays nothing: loss and gradients stay those of the images that were recorded."""

    def record(self, work):
        again, loss = super().record(work)
        again()
        return (lambda: None), loss


class Moody(nn.Module):
    """Decides by numbers that no recording draws anew."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x * (1 + 0 * float(self.draw()))  # without a trace, so that the answers can be compared


class Drifting(nn.Module):
    """Puts a new tensor in the place of its buffer, which a recording would never see."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return x - self.mean


def test_a_recording_that_says_something_else_is_not_trusted(net, parts, recorded):
    recorded.device = Stuck
    found, _ = trained(net, parts)
    assert same(found, plainly(net, parts))
    assert not recorded.made[0].replayed
    assert "apart from what is computed" in recorded.made[0].refused


@pytest.mark.parametrize("draw", [lambda: random.random(), lambda: np.random.random()], ids=["python", "numpy"])  # noqa: NPY002
def test_a_layer_that_draws_on_the_processor_is_not_recorded(net, parts, recorded, draw):
    net.drop = Moody(draw)
    found, _ = trained(net, parts)
    assert same(found, plainly(net, parts))
    assert not recorded.made[0].replayed
    assert "draws random numbers" in recorded.made[0].refused


def test_a_layer_that_puts_its_buffer_anew_is_not_recorded(net, parts, recorded):
    net.drop = Drifting()
    found, _ = trained(net, parts)
    assert same(found, plainly(net, parts))
    assert not recorded.made[0].replayed
    assert "in the place of its buffers" in recorded.made[0].refused


@pytest.mark.parametrize(
    "call", [4, 6]
)  # one plain, one checked, one recorded, one computed, one replayed, one compared
def test_a_step_that_does_not_fit_beside_the_recording_goes_on_without_it(net, parts, recorded, monkeypatch, call):
    calls = []
    own = loop.Run.gradients

    def full(self, *batch):
        calls.append(None)
        if len(calls) == call:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(self, *batch)

    monkeypatch.setattr(loop.Run, "gradients", full)
    found, _ = trained(net, parts)
    monkeypatch.setattr(loop.Run, "gradients", own)
    assert same(found, plainly(net, parts))
    assert not recorded.made[0].replayed


def test_weights_that_lie_elsewhere_end_a_recording():
    layer = nn.Linear(3, 2)

    def passes(inputs, targets):
        loss = (layer(inputs) - targets).square().mean()
        loss.backward()
        return loss

    recorder = Recorder(passes, [layer], ByHand(layer))
    for step in range(6):
        if step == 5:
            layer.weight.data = layer.weight.data.clone()
            recorder.look()
        layer.zero_grad(set_to_none=True)
        recorder.gradients(torch.randn(4, 3), torch.randn(4, 2), seed=step)
        assert recorder.replayed == max(0, min(step, 4) - 2)
    assert "lie elsewhere" in recorder.refused


def test_a_gradient_that_is_no_number_decides_nothing(net, parts, recorded, monkeypatch):
    real, seen = recording._apart, []

    def apart(found, wanted):
        seen.append(None)
        return float("nan") if len(seen) < 3 else real(found, wanted)

    monkeypatch.setattr(recording, "_apart", apart)
    found, _ = trained(net, parts)
    assert same(found, plainly(net, parts))
    assert recorded.made[0].replayed == 32 - 5


def test_a_short_training_is_not_recorded(net, parts, recorded):
    trained(net, parts, dataclasses.replace(MANY, epochs=4))
    assert not recorded.made


def test_steps_that_add_up_are_refused(net, parts, recorded):
    with pytest.raises(SettingError, match="does not go with --accumulate"):
        trained(net, parts, dataclasses.replace(MANY, accumulate=2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_graphs_are_refused_before_the_work(net, parts, monkeypatch):
    monkeypatch.setattr(transfer, "_probe", None)
    with pytest.raises(SettingError, match="need a GPU"):
        transfer.transfer(net, *parts, MANY, method="lp-ft")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_graphs_are_refused(net, parts):
    with pytest.raises(SettingError, match="need a GPU"):
        trained(net, parts)


def test_a_batch_of_another_shape_is_computed():
    layer = nn.Linear(3, 2)
    device = ByHand(layer)

    def passes(inputs, targets):
        loss = (layer(inputs) - targets).square().mean()
        loss.backward()
        return loss

    recorder = Recorder(passes, [layer], device)
    for count in (4, 4, 4, 4, 2, 4):
        layer.zero_grad(set_to_none=True)
        inputs, targets = torch.randn(count, 3), torch.randn(count, 2)
        loss = recorder.gradients(inputs, targets, seed=0)
        found = [p.grad.clone() for p in layer.parameters()]
        layer.zero_grad(set_to_none=True)
        assert torch.equal(loss.detach(), passes(inputs, targets).detach())
        assert all(torch.equal(a, p.grad) for a, p in zip(found, layer.parameters(), strict=True))
    assert recorder.replayed == 2
    assert device.recorded == 1


@pytest.fixture
def watched(monkeypatch):
    """The recorders of a GPU."""
    made = []

    class Watched(Recorder):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(loop, "Recorder", Watched)
    return made


class Failing(nn.Module):
    """Fails while it is recorded."""

    def forward(self, x):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("not while it is recorded")
        return x


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("more", [{}, {"teacher_features": 0.5}, {"precision": "fp16"}], ids=str)
def test_on_a_gpu(net, parts, watched, more):
    settings = dataclasses.replace(MANY, **more)
    found, _ = trained(net, parts, settings, teacher=copy.deepcopy(net) if "teacher_features" in more else None)
    assert watched[0].replayed, watched[0].refused
    wanted = plainly(net, parts, settings, teacher=copy.deepcopy(net) if "teacher_features" in more else None)
    for one, other in zip(found.state_dict().values(), wanted.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_a_recording_that_fails_leaves_the_training_as_it_was(net, parts, watched):
    net.drop = nn.Sequential(Failing(), nn.Dropout(0.1))
    found, _ = trained(net, parts)
    assert not watched[0].replayed
    assert "not while it is recorded" in watched[0].refused
    wanted = plainly(net, parts)
    for one, other in zip(found.state_dict().values(), wanted.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
