"""What the stages of a search are given."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from brightest import write_onnx
from searches import asked
from tiny_images import COLORS, write_photos

from tlopt.errors import ImagesError, StageError
from tlopt.images.cache import Cache
from tlopt.images.of_artifact import parts_of
from tlopt.images.parts import Shares
from tlopt.images.scanning import scan
from tlopt.publishing.marks import SEARCH, contents
from tlopt.search import optimize
from tlopt.search.funnel.asked import Contender
from tlopt.search.funnel.results import Judged
from tlopt.search.funnel.variants import Base, Variant
from tlopt.search.funnel.workshop import Workshop
from tlopt.search.networks import Network
from tlopt.search.outcome import copy_artifact
from tlopt.search.space import Point

CLASSES = ("red", "blue", "green")  # in an order of its own, as of a network that was imported


@pytest.fixture
def artifact(tmp_path):
    return write_onnx(tmp_path / "artifact", classes=CLASSES)


def real(folder):
    return {str((folder.path / name).resolve()) for name in folder.files}


def workshop(artifact, images, out):
    whole, parts, shares, own = optimize._images_of(artifact, images, Shares(), 3)
    search = replace(asked(kind="torch"), shares=shares, seed=3, own=own)
    return Workshop(asked=search, out=out, folder=whole, parts=parts, cache=Cache())


def given_to(stage, monkeypatch, call):
    """Return the images that a stage is given."""
    given = []

    def stands_in(source, _to, **settings):
        given.append(settings["images"])
        return source

    monkeypatch.setattr(importlib.import_module(f"tlopt.stages.{stage}"), stage, stands_in)
    call()
    return given[0]


@pytest.mark.parametrize("stage", ["prune", "quantize"])
def test_stages_train_on_no_image_that_decides_or_judges(stage, artifact, tmp_path, monkeypatch):
    images = write_photos(tmp_path / "images", per_class=10)
    shop = workshop(artifact, images, tmp_path / "out")
    calls = {
        "prune": lambda: shop._pruned(artifact, 0.5, 2),
        "quantize": lambda: shop._quantized(artifact, "int8", "onnxruntime", mixed=False),
    }
    given = given_to(stage, monkeypatch, calls[stage])
    found = parts_of(artifact, given, labels="all", draw=True, seed=3)
    assert len(shop.parts["test"]) > 0
    for part in ("train", "val", "test"):
        assert real(found.divided[part]) == real(shop.parts[part])
    for file, label in zip(found.whole.files, found.whole.labels, strict=True):
        assert f"/{CLASSES[label]}/" in file
    (tmp_path / "out" / SEARCH).write_text('{"tlopt": "", "identity": "", "study": ""}')
    assert contents(tmp_path / "out").foreign == ()


@pytest.fixture
def moved(tuned, tmp_path):
    """Goes on with a search whose images, those of a training, lie elsewhere by now."""
    ref = tuned.card.images
    shutil.copytree(ref.path, tmp_path / "moved")
    whole = scan(tmp_path / "moved")
    shares = Shares(val=ref.val, test=ref.test)
    search = replace(
        asked(), images=replace(asked().images, digest=whole.digest), shares=shares, seed=ref.seed,
    )  # fmt: skip
    parts = whole.split(val=ref.val, test=ref.test, seed=ref.seed)
    return Workshop(asked=search, out=tmp_path / "out", folder=whole, parts=parts, cache=Cache())


@pytest.mark.parametrize("stage", ["prune", "qat", "quantize", "finetune"])
def test_stages_find_the_images_where_they_are_now(moved, tuned, exported, monkeypatch, stage):
    network = Network(name=tuned.card.model, artifact=tuned.path)
    calls = {
        "prune": lambda: moved._pruned(tuned, 0.5, 2),
        "qat": lambda: moved._rounded(tuned, "onnxruntime"),
        "quantize": lambda: moved._quantized(exported, "int8", "onnxruntime", mixed=False),
        "finetune": lambda: moved._finetune(Contender(network=network, image_size=32), moved.work, {}),
    }
    assert given_to(stage, monkeypatch, calls[stage]) == moved.folder.path


def test_a_mean_of_weights_is_judged_on_the_images_where_they_are_now(moved, tuned, monkeypatch):
    given = []

    def mixing(source, _place, *, images, names, **_):
        given.append(images)
        assert names == ["tiny_models:cnn 32 px"] * 2
        raise StageError("They do not mix.")

    monkeypatch.setattr(importlib.import_module("tlopt.search.funnel.soup"), "soup", mixing)
    monkeypatch.setattr(Workshop, "opened", lambda *_: tuned)
    with pytest.raises(StageError):
        moved.mixed(("one", "other"))
    assert given == [moved.folder.path]


def test_images_where_a_training_found_them_are_not_named_anew(tuned, tmp_path):
    """A stage that is told of no images checks that they are the same as then."""
    whole = scan(tuned.card.images.path)
    shop = Workshop(asked=asked(), out=tmp_path, folder=whole, parts={}, cache=Cache())
    assert shop._images_for(tuned) is None


def test_a_longer_recovery_that_is_there_counts_for_a_shorter_one(artifact, tmp_path, monkeypatch):
    shop = workshop(artifact, write_photos(tmp_path / "images", per_class=10), tmp_path / "out")
    trained = []

    def pruned(_source, to, *, epochs, **_):
        trained.append(epochs)
        return copy_artifact(artifact, to)

    monkeypatch.setattr(importlib.import_module("tlopt.stages.prune"), "prune", pruned)
    for epochs in (1, 0, 2, 1):
        shop._pruned(artifact, 0.5, epochs)
    assert trained == [1, 2]


def test_images_that_have_all_parts_on_disk_are_taken_as_they_are(artifact, tmp_path):
    for part in ("train", "val", "test"):
        write_photos(tmp_path / "images" / part, per_class=2)
    shop = workshop(artifact, tmp_path / "images", tmp_path / "out")
    assert shop._images_for(artifact) == tmp_path / "images"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("joined", "kept"), [(["one", "other"], "work/soup"), (["one"], "")])
def test_a_mean_of_weights_that_none_joined_is_nothing_to_make_variants_of(
    artifact, tmp_path, monkeypatch, joined, kept
):
    metrics = {"validation": {"accuracy": 0.9}, "mean_of": joined, "loss": 0.25}

    def mixing(_source, place, **_):
        return SimpleNamespace(path=place, card=SimpleNamespace(torch=SimpleNamespace(metrics=metrics)))

    monkeypatch.setattr(importlib.import_module("tlopt.search.funnel.soup"), "soup", mixing)
    monkeypatch.setattr(Workshop, "opened", lambda *_: artifact)
    images = write_photos(tmp_path / "images", per_class=10)
    found = workshop(artifact, images, tmp_path / "out").mixed(("one", "other"))
    assert (found.accuracy, found.loss) == (0.9, 0.25)
    assert found.artifact.partition("-")[0] == kept


def test_other_images_keep_the_order_of_the_classes_of_the_artifact(artifact, tmp_path):
    images = write_photos(tmp_path / "images", per_class=10)
    whole, parts, _, own = optimize._images_of(artifact, images, Shares(), 0)
    assert not own
    assert whole.classes == parts["val"].classes == CLASSES
    assert sorted(COLORS) == list(scan(images).classes)
    labels = [CLASSES.index(file.partition("/")[0]) for file in parts["val"].files]
    np.testing.assert_array_equal(parts["val"].labels, labels)


def test_names_that_no_table_can_hold_are_refused_before_the_search(artifact, tmp_path):
    images = write_photos(tmp_path / "images", per_class=10)
    (images / "red" / "00.png").rename(images / "red" / "\udcff.png")
    with pytest.raises(ImagesError, match="not written in UTF-8") as caught:
        optimize._images_of(artifact, images, Shares(), 0)
    assert "tlopt data split" in caught.value.hint


@pytest.mark.parametrize(
    ("width", "precision", "way", "judged"),
    [
        (0.5, "int8", "plain", 0.75), (0.5, "int8", "trained", None), (0.5, "fp32", "plain", None),
        (1.0, "int8", "plain", None),
    ],
)  # fmt: skip
def test_a_pruned_network_is_judged_before_it_goes_to_int8(moved, tuned, monkeypatch, width, precision, way, judged):
    """What int8 loses is told from what pruning lost."""
    pruned = copy_artifact(tuned, moved.out / "work" / "pruned")
    monkeypatch.setattr(Workshop, "opened", lambda *_: tuned)
    monkeypatch.setattr(Workshop, "_pruned", lambda *_: pruned)
    monkeypatch.setattr(Workshop, "_compressed", lambda *_: pruned)
    monkeypatch.setattr(Workshop, "judge", lambda _, one, __: Judged(hits=3, images=4) if one is pruned else None)
    one = Contender(network=Network(name="timm:a"), image_size=32)
    made = Variant(
        base=Base(contender=one, artifact="work/a", accuracy=0.9), way=way,
        point=Point(network=one.network, image_size=32, width=width, precision=precision),
    )  # fmt: skip
    assert moved.make(made, recovery=1).float_accuracy == judged
    early = replace(made, base=replace(made.base, what="first"))  # a stopgap, of which nothing else is made
    assert moved.make(early, recovery=1).float_accuracy is None
