"""Which images a stage or a measurement gets: those of the training, or a folder of others."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tlopt.artifact import Artifact
from tlopt.cards.card import Card, ImagesRef
from tlopt.cards.details import TorchDetails
from tlopt.errors import ImagesError
from tlopt.images import scan
from tlopt.images.of_artifact import drawn, parts_of, trained_on
from tlopt.images.parts import Shares
from tlopt.images.scanning import reopen, scan_any
from tlopt.preprocess import Preprocess

CLASSES = ("a", "b", "c")


def fill(root, names, *, each=10, start=0):
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            value = (start + sum(map(ord, name)) * 31 + i * 7) % 255
            Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def trained(tmp_path):
    return fill(tmp_path / "trained", CLASSES)


def artifact(tmp_path, images=None, classes=CLASSES):
    ref = None
    if images is not None:
        ref = ImagesRef(path=str(images), digest=scan(images).digest, val=0.2, test=0.3, seed=4)
    card = Card(
        kind="torch", model="timm:x", precision="fp32", classes=classes, preprocess=Preprocess(size=8), images=ref,
        details=TorchDetails(),
    )  # fmt: skip
    return Artifact(path=tmp_path / "artifact", card=card)


@pytest.mark.parametrize("labels", ["all", "some", "none"])
@pytest.mark.parametrize("draw", [True, False])
def test_training_images_are_divided_as_they_were(trained, tmp_path, labels, draw):
    wanted = scan(trained).split(val=0.2, test=0.3, seed=4)
    shutil.copytree(trained, tmp_path / "moved")
    one = artifact(tmp_path, trained)
    for place in (None, trained, tmp_path / "moved"):
        parts = parts_of(one, place, labels=labels, draw=draw, seed=9)
        assert parts.trained_on
        assert {name: part.files for name, part in parts.divided.items()} == {n: p.files for n, p in wanted.items()}


def test_changed_training_images_are_refused(trained, tmp_path):
    one = artifact(tmp_path, trained)
    (trained / "a" / "0.png").unlink()
    with pytest.raises(ImagesError, match="are not the images that the artifact was trained on"):
        parts_of(one, labels="none")
    assert not parts_of(one, trained, labels="none").trained_on


def test_others_are_for_the_test_or_four_fifths_for_training(trained, tmp_path):
    one, others = artifact(tmp_path, trained), fill(tmp_path / "others", CLASSES, start=100)
    measured = parts_of(one, others, labels="some")
    assert [len(measured.divided[name]) for name in ("train", "val", "test")] == [0, 0, 30]
    drawn = parts_of(one, others, labels="all", draw=True)
    assert [len(drawn.divided[name]) for name in ("train", "val", "test")] == [24, 6, 0]


def test_others_keep_the_parts_that_they_have(trained, tmp_path):
    root = tmp_path / "others"
    for part, each in (("train", 4), ("val", 3), ("test", 2)):
        fill(root / part, CLASSES, each=each, start=each)
    for draw in (True, False):
        parts = parts_of(artifact(tmp_path, trained), root, labels="some", draw=draw)
        assert [len(parts.divided[name]) for name in ("train", "val", "test")] == [12, 9, 6]


def test_labels_are_in_the_order_of_the_network(tmp_path):
    root = fill(tmp_path / "others", CLASSES)
    parts = parts_of(artifact(tmp_path, classes=("c", "a", "b")), root, labels="some")
    assert parts.whole.classes == ("c", "a", "b")
    for file, label in zip(parts.whole.files, parts.whole.labels, strict=True):
        assert file.startswith(f"{('c', 'a', 'b')[label]}/")


@pytest.mark.parametrize("there", [("a", "c"), ("b",)])
@pytest.mark.parametrize("empty", [True, False])
def test_a_class_may_lack_where_nothing_is_trained(tmp_path, there, empty):
    root = fill(tmp_path / "others", there)
    if empty:
        (root / next(name for name in CLASSES if name not in there)).mkdir()
    one = artifact(tmp_path)
    parts = parts_of(one, root, labels="some")
    assert parts.whole.classes == CLASSES
    assert sorted(set(parts.whole.labels.tolist())) == [CLASSES.index(name) for name in there]
    with pytest.raises(ImagesError):
        parts_of(one, root, labels="all", draw=True)


def test_other_classes_are_told_by_name(tmp_path):
    root = fill(tmp_path / "others", ("a", "b", "d"))
    with pytest.raises(ImagesError, match=r"it has no c; artifact does not know d\."):
        parts_of(artifact(tmp_path), root, labels="some")
    assert parts_of(artifact(tmp_path), root, labels="none").whole.classes == ("a", "b", "d")


def test_names_in_another_case_are_told(tmp_path):
    root = fill(tmp_path / "others", ("A", "b", "C"))
    with pytest.raises(ImagesError) as caught:
        parts_of(artifact(tmp_path), root, labels="some")
    assert "rename A to a, C to c" in caught.value.hint


@pytest.mark.parametrize("below", ["", "more", "more/deep"])
def test_images_without_labels_will_do_where_none_are_needed(tmp_path, below):
    root = tmp_path / "flat"
    fill(root / "x", ["y"])
    (root / below).mkdir(parents=True, exist_ok=True)
    for file in (root / "x" / "y").iterdir():
        file.rename(root / below / file.name)
    shutil.rmtree(root / "x")
    parts = parts_of(artifact(tmp_path), root, labels="none", draw=True)
    assert parts.whole.classes == ()
    assert parts.whole.counts == {}
    assert (len(parts.train), len(parts.held_out)) == (8, 2)
    with pytest.raises(ImagesError, match=r"class folder|classes"):
        parts_of(artifact(tmp_path), root, labels="some")


def test_one_image_is_enough_where_labels_are_not_needed(tmp_path):
    root = fill(tmp_path / "flat", ["only"], each=1)
    parts = parts_of(artifact(tmp_path), root, labels="none", draw=True)
    assert len(parts.train) == len(parts.held_out) == 1


def test_a_folder_without_an_image_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImagesError, match="holds no image"):
        scan_any(tmp_path / "empty")
    with pytest.raises(ImagesError, match="does not exist"):
        scan_any(tmp_path / "nowhere")


def test_class_folders_that_are_wrong_are_told_even_where_labels_are_not_needed(tmp_path):
    root = fill(tmp_path / "others", ("a", "b"))
    (root / "empty").mkdir()
    with pytest.raises(ImagesError, match="empty holds no image"):
        scan_any(root)


def test_an_imported_model_knows_no_images(tmp_path):
    with pytest.raises(ImagesError, match="knows no training images") as caught:
        parts_of(artifact(tmp_path), labels="none", hint="Try this.")
    assert caught.value.hint == "Try this."


def test_images_of_a_cross_validated_training_leave_none_for_validation(tmp_path, trained):
    shares = Shares(val=0.2, test=0.3)
    plain, parts = drawn(scan(trained), shares, 4)
    crossed, whole = drawn(scan(trained), shares, 4, folds=5)
    assert (plain.folds, crossed.folds) == (0, 5)
    assert whole["test"].files == parts["test"].files
    assert set(whole["train"].files) == {*parts["train"].files, *parts["val"].files}
    assert len(whole["val"]) == 0
    reopened = reopen(crossed)
    assert {part: images.files for part, images in reopened.items()} == {p: i.files for p, i in whole.items()}
    made = artifact(tmp_path, trained)
    crossed_card = replace(made.card, images=replace(made.card.images, folds=5))
    of_it = replace(made, card=crossed_card)
    assert parts_of(of_it, labels="all").held_out.files == whole["train"].files
    with pytest.raises(ImagesError, match="none is left for validation"):
        trained_on(of_it)


def test_a_val_part_of_its_own_stands_where_folds_are_asked_for(tmp_path, caplog):
    for part in ("train", "val", "test"):
        fill(tmp_path / "set" / part, CLASSES, each=2, start=ord(part[0]))
    ref, parts = drawn(scan(tmp_path / "set"), Shares(), 0, folds=5)
    assert ref.folds == 0
    assert len(parts["val"]) == 6
    assert "folds are left out" in caplog.text


def test_images_that_were_moved_are_told_with_the_option_that_names_them(tmp_path):
    root = fill(tmp_path / "photos", CLASSES)
    made = artifact(tmp_path, root)
    root.rename(tmp_path / "moved")
    with pytest.raises(ImagesError, match=r"are no longer at .*photos") as caught:
        parts_of(made, labels="all")
    assert caught.value.hint == "Name their folder with --images."
    assert parts_of(made, tmp_path / "moved", labels="all").trained_on
