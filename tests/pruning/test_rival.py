"""The unpruned network on smaller images, beside a pruned one."""

import logging

import pytest
import torch
from torch import nn

from tlopt.artifact import Artifact
from tlopt.cards.card import Card, Step
from tlopt.cards.details import Macs, Pruned, Rival, Speedup, TorchDetails
from tlopt.errors import PluginError
from tlopt.preprocess import Preprocess
from tlopt.pruning import analysis, latency, rival


class Small(nn.Module):
    """Two convolutions and a classifier without multiply-adds worth mentioning."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


def opened(size):
    del size
    return Small().eval()


def test_multiply_adds_are_those_of_the_analysis():
    for size in (32, 40):
        assert rival.multiply_adds(Small().eval(), size) == analysis.analyze(Small(), size).macs()


def test_the_largest_size_with_as_few_multiply_adds_is_taken():
    before = rival.multiply_adds(opened(64), 64)
    found = rival.of_macs(opened, 64, before=before, after=0.6 * before)
    assert found.size == 48  # (48 / 64) ** 2 is 0.5625, and (56 / 64) ** 2 is 0.77
    assert found.macs == rival.multiply_adds(opened(48), 48)
    assert found.speed == {}


def test_a_network_that_is_hardly_pruned_still_has_a_smaller_rival():
    before = rival.multiply_adds(opened(64), 64)
    assert rival.of_macs(opened, 64, before=before, after=0.99 * before).size == 56


@pytest.mark.parametrize(("size", "after"), [(64, 0.2), (32, 0.9)])
def test_images_are_not_made_smaller_than_networks_take(size, after):
    before = rival.multiply_adds(opened(size), size)
    assert rival.of_macs(opened, size, before=before, after=after * before) is None


def clock(monkeypatch, milliseconds):
    """Let the pruned network take 1 ms, and the whole one what its size says."""
    asked = []

    def compare(models, sizes, batches):
        assert len(models) == 2
        asked.append(sizes[1])
        return [dict.fromkeys(batches, 1.0), dict.fromkeys(batches, milliseconds[sizes[1]])]

    monkeypatch.setattr(latency, "compare", compare)
    return asked


@pytest.mark.parametrize(
    ("milliseconds", "size"),
    [
        ({56: 1.2, 48: 0.9, 40: 0.6}, 48),
        ({56: 1.3, 48: 1.1, 40: 0.8}, 40),  # time does not fall as multiply-adds do
        ({56: 0.9, 48: 0.7, 40: 0.6}, 56),
        ({56: 1.01, 48: 0.99, 40: 0.9}, 56),  # within what two timings differ by
    ],
)
def test_the_largest_size_that_is_as_fast_by_the_clock_is_taken(monkeypatch, milliseconds, size):
    asked = clock(monkeypatch, milliseconds)
    found = rival.of_time(opened, opened(64), 64, speedup=1.5, batches=(1, 32))
    assert found.size == size
    assert found.speed == {1: pytest.approx(1 / milliseconds[size]), 32: pytest.approx(1 / milliseconds[size])}
    assert len(asked) == len(set(asked)) <= 3


def test_no_rival_where_smaller_images_are_no_faster(monkeypatch):
    clock(monkeypatch, dict.fromkeys((56, 48, 40, 32), 2.0))
    assert rival.of_time(opened, opened(64), 64, speedup=1.5, batches=(1,)) is None


def artifact(tmp_path, **more):
    step = Step(
        stage="finetune", settings={"weights": "own weights.safetensors"}, source="", seconds=1, versions={}, device=""
    )
    card = Card(
        kind="torch", model="test:small", precision="fp32", classes=("a", "b"), preprocess=Preprocess(size=64),
        lineage=(step,), details=TorchDetails(**more),
    )  # fmt: skip
    return Artifact(path=tmp_path, card=card)


def looked(source, monkeypatch, accuracy=0.9, open_model=lambda _: Small().eval(), speedup=None, judged=None):
    monkeypatch.setattr(rival, "open_model", open_model)
    before = rival.multiply_adds(Small().eval(), 64)
    return rival.look(
        source, Small().eval(), Macs(before=before, after=int(0.6 * before)), speedup, images="my images",
        judged=judged or (lambda network, size: (accuracy, 0.8, 40)),  # noqa: ARG005 - part of the protocol
    )  # fmt: skip


def test_a_rival_that_looks_better_is_said_so_with_its_command(tmp_path, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING, "tlopt"):
        found = looked(artifact(tmp_path), monkeypatch)
    assert found.better
    assert (found.image_size, found.accuracy, found.pruned_accuracy, found.images) == (48, 0.9, 0.8, 40)
    assert "at 48 px needs" in caplog.text
    assert "estimated at 90.0% of 40 validation images, without training it" in caplog.text
    assert (
        "tlopt finetune 'my images' -o OUT --model test:small --weights 'own weights.safetensors' --image-size 48"
    ) in caplog.text


def test_a_rival_that_looks_worse_is_no_warning(tmp_path, monkeypatch, caplog):
    with caplog.at_level(logging.INFO, "tlopt"):
        found = looked(artifact(tmp_path), monkeypatch, accuracy=0.7)
    assert not found.better
    assert "better choice" not in caplog.text
    assert "estimated at 70.0%" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_after_a_measured_speed_up_the_rival_is_timed(tmp_path, monkeypatch):
    clock(monkeypatch, {56: 1.3, 48: 0.9, 40: 0.6})
    speedup = Speedup(asked=1.5, measured={"1": 1.6, "32": 1.5}, before_ms={}, after_ms={})
    found = looked(artifact(tmp_path), monkeypatch, speedup=speedup)
    assert found.speed == {"1": 1.111, "32": 1.111}
    assert "runs 1.11 x (batch 1) and 1.11 x (batch 32) as fast as the pruned one" in found.told()


def test_a_network_of_one_input_size_has_no_rival(tmp_path, monkeypatch, caplog):
    class Fixed(Small):
        def forward(self, x):
            assert x.shape[-1] == 64, "the size must be 64"
            return super().forward(x)

    with caplog.at_level(logging.INFO, "tlopt"):
        assert looked(artifact(tmp_path), monkeypatch, open_model=lambda _: Fixed().eval()) is None
    assert "no other size than 64 px: the size must be 64" in caplog.text


@pytest.mark.parametrize(
    "error", [PluginError("no classifier"), RuntimeError("no classifier"), IndexError("no classifier")]
)
def test_a_rival_that_cannot_be_judged_ends_no_pruning(tmp_path, monkeypatch, caplog, error):
    def judged(*_):
        raise error

    with caplog.at_level(logging.INFO, "tlopt"):
        assert looked(artifact(tmp_path), monkeypatch, judged=judged) is None
    assert "the rival at 48 px was not judged: no classifier" in caplog.text


def test_a_network_pruned_before_has_no_rival(tmp_path, monkeypatch):
    source = artifact(tmp_path, pruned=Pruned(criterion="logits", sparsity="none"))
    assert looked(source, monkeypatch) is None


def test_the_card_keeps_the_rival(tmp_path):
    kept = Rival(
        image_size=48, macs=5, speed={"1": 1.1}, accuracy=0.9, pruned_accuracy=0.8, images=40, command="tlopt finetune"
    )
    card = artifact(tmp_path, pruned=Pruned(criterion="logits", sparsity="none", rival=kept)).card
    assert Card.from_json(card.to_json()).torch.pruned.rival == kept


def test_the_rival_is_opened_for_its_own_size(tmp_path, monkeypatch):
    sizes = []

    def open_model(made):
        sizes.append(made.card.preprocess.size)
        return Small().eval()

    looked(artifact(tmp_path), monkeypatch, open_model=open_model)
    assert sizes[-1] == 48
    assert torch.is_grad_enabled()
