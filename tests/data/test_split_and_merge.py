import csv
import os

import numpy as np
import pytest
from drawing import draw, picture

from tlopt.data import merge, split
from tlopt.errors import ImagesError, OutputExistsError, SettingError
from tlopt.images import SPLITS, scan


def test_split_writes_parts_that_scan_takes_as_they_are(animals, tmp_path):
    made = split(animals, tmp_path / "out", val=0.25, test=0.25)
    assert np.bincount(made.images.fixed).tolist() == [24, 12, 12]
    folder = scan(tmp_path / "out")
    assert folder.files == made.images.files
    assert folder.fixed.tolist() == made.images.fixed.tolist()
    source = scan(animals)
    assert sorted(folder.hashes) == sorted(source.hashes)
    again = split(animals, tmp_path / "again", val=0.25, test=0.25)
    assert again.images.files == made.images.files
    other = split(animals, tmp_path / "other", val=0.25, test=0.25, seed=1)
    assert other.images.files != made.images.files


def test_split_keeps_near_duplicates_on_one_side(animals, tmp_path):
    for i in range(12):
        picture(i).resize((60, 48)).save(animals / "cat" / f"small{i:02d}.png")
    for seed in range(3):
        images = split(animals, tmp_path / f"out{seed}", val=0.2, test=0.2, seed=seed).images
        part = {file.rpartition("/")[2]: p for file, p in zip(images.files, images.fixed.tolist(), strict=True)}
        assert all(part[f"{i:02d}.png"] == part[f"small{i:02d}.png"] for i in range(12))


def test_split_keeps_named_groups_on_one_side(tmp_path):
    for i in range(80):
        draw(tmp_path / "in" / "ab"[i % 2] / f"person{i // 8}-{i}.png", i)
    images = split(tmp_path / "in", tmp_path / "out", val=0.2, test=0.2, group_by=r"person(\d+)-").images
    parts: dict[str, set[int]] = {}
    for file, part in zip(images.files, images.fixed.tolist(), strict=True):
        parts.setdefault(file.partition("person")[2].partition("-")[0], set()).add(part)
    assert all(len(found) == 1 for found in parts.values())
    assert np.bincount(images.fixed).tolist() == [48, 16, 16]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("person[", "is not a regular expression"), ("person", "needs a group"), ("nobody(x)", "matches no image")],
)
def test_split_refuses_a_wrong_pattern(animals, tmp_path, pattern, message):
    with pytest.raises(SettingError, match=message):
        split(animals, tmp_path / "out", group_by=pattern)
    assert not (tmp_path / "out").exists()


def test_split_leaves_out_the_unreadable_and_says_so(animals, tmp_path):
    (animals / "cat" / "bad.png").write_bytes(b"no image")
    made = split(animals, tmp_path / "out")
    assert [left.file for left in made.left_out] == ["cat/bad.png"]
    assert "log.csv says why" in made.to_report("split").table()


def test_split_can_link_instead_of_copy(animals, tmp_path):
    made = split(animals, tmp_path / "out", files="link")
    file = tmp_path / "out" / made.images.files[0]
    assert os.stat(file).st_nlink == 2


def test_split_never_replaces_without_force(animals, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(OutputExistsError, match="exists already"):
        split(animals, tmp_path / "out")
    with pytest.raises(OutputExistsError, match=r"mine\.txt would be lost"):
        split(animals, tmp_path / "out", force=True)
    split(animals, tmp_path / "set")
    split(animals, tmp_path / "set", seed=1, force=True)
    with pytest.raises(OutputExistsError, match="what this command reads"):
        split(tmp_path / "set", tmp_path / "set", force=True)
    with pytest.raises(OutputExistsError, match="what this command reads"):
        merge([animals, tmp_path / "set" / "manifest.csv"], tmp_path / "set", force=True)


def test_split_refuses_shares_that_leave_nothing(animals, tmp_path):
    with pytest.raises(SettingError, match="nothing is left for training"):
        split(animals, tmp_path / "out", val=0.6, test=0.5)
    with pytest.raises(SettingError, match=r"val must be between 0 and 0\.9"):
        split(animals, tmp_path / "out", val=2)


def test_merge_maps_classes_and_keeps_origins(animals, tmp_path):
    for i in range(10):
        draw(tmp_path / "zoo" / ("feline" if i < 5 else "wolf") / f"{i}.png", 200 + i)
    made = merge([animals, tmp_path / "zoo"], tmp_path / "out", map=("cat=feline",))
    assert made.images.counts == {"dog": 24, "feline": 29, "wolf": 5}
    assert sorted(set(made.images.origins)) == ["animals", "zoo"]
    rows = list(csv.DictReader((tmp_path / "out" / "manifest.csv").read_text().splitlines()))
    assert sum(row["origin"] == "zoo" for row in rows) == 10
    report = made.to_report("merge")
    assert report.rows[-1] == {"class": "all", "images": 58, "from animals": 48, "from zoo": 10}


def test_merge_takes_each_picture_once_and_refuses_to_guess_labels(animals, tmp_path):
    zoo = tmp_path / "zoo"
    for i in range(4):
        draw(zoo / ("cat" if i < 2 else "dog") / f"{i}.png", 200 + i)
    picture(0).resize((40, 32)).save(zoo / "cat" / "small.png")
    picture(1).save(zoo / "dog" / "mistaken.png")
    made = merge([animals, zoo], tmp_path / "out")
    reasons = {left.file.rpartition("animals/")[2].rpartition("zoo/")[2]: left.reason for left in made.left_out}
    assert reasons["cat/small.png"] == "a near duplicate of cat/00.png"
    assert reasons["cat/01.png"] == "the same picture as dog/mistaken.png, which is labelled dog"
    assert len(made.images) == 48 + 6 - 3


def test_merge_keeps_parts_and_never_leaves_a_test_picture_in_training(tmp_path):
    for k, name in enumerate(("one", "two")):
        for i in range(20):
            draw(tmp_path / name / ("train" if i < 14 else "test") / "ab"[i % 2] / f"{i}.png", 100 * k + i)
    picture(100 + 16).save(tmp_path / "one" / "train" / "a" / "leak.png")
    made = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert [left.reason for left in made.left_out] == ["a copy of test/a/16.png"]
    assert np.bincount(made.images.fixed, minlength=len(SPLITS)).tolist() == [28, 0, 12]
    assert "test/a/16-2.png" in made.images.files


def test_merge_takes_the_map_as_the_command_line_gives_it(animals, tmp_path):
    made = merge([animals], tmp_path / "out", map="cat=feline,dog=canine")
    assert set(made.images.counts) == {"canine", "feline"}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(("cats=x",), "no source has"), (("cat",), "takes old=new"), (("cat=x", "cat=y"), "two names")],
)
def test_merge_refuses_a_wrong_map(animals, tmp_path, pairs, message):
    with pytest.raises(SettingError, match=message):
        merge([animals], tmp_path / "out", map=pairs)


def test_merge_refuses_what_would_lose_a_class(tmp_path):
    for i in range(3):
        draw(tmp_path / "one" / "a" / f"{i}.png", i)
        draw(tmp_path / "one" / "b" / f"{i}.png", i)
        draw(tmp_path / "two" / "a" / f"{i}.png", 10 + i)
        draw(tmp_path / "two" / "c" / f"{i}.png", 20 + i)
    with pytest.raises(ImagesError, match="No image of the class b would remain"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    with pytest.raises(SettingError, match="given twice"):
        merge([tmp_path / "one", tmp_path / "one"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_unicode_are_written_and_read_again(animals, tmp_path):
    source = os.fsencode(animals / "cat")
    first = sorted(os.listdir(source))[0]
    os.rename(os.path.join(source, first), os.path.join(source, b"lat\xe9.png"))
    made = split(animals, tmp_path / "out")
    assert any(os.fsencode(file).endswith(b"lat\xe9.png") for file in made.images.files)
    both = merge([tmp_path / "out"], tmp_path / "again")
    assert sum(os.fsencode(file).endswith(b"\xe9.png") for file in both.images.files) == 1
    assert sorted(scan(tmp_path / "out" / "manifest.csv").hashes) == sorted(made.images.hashes)


def test_a_label_that_is_no_unicode_is_refused(animals, tmp_path):
    table = animals / "table.csv"
    table.write_bytes(b"path,label\ncat/00.png,\xe9\n")
    with pytest.raises(ImagesError, match="cannot be read as a CSV table") as caught:
        scan(table)
    assert "UTF-8" in caught.value.hint


@pytest.mark.parametrize("name", [" cat", "cat ", "cat\u3000"])
def test_a_class_whose_outer_spaces_no_manifest_keeps_is_refused_before_anything_is_made(animals, tmp_path, name):
    (animals / "cat").rename(animals / name)
    for write in (lambda: split(animals, tmp_path / "out"), lambda: merge([animals], tmp_path / "out")):
        with pytest.raises(ImagesError, match="begins or ends with a space"):
            write()
    assert not (tmp_path / "out").exists()


def test_split_speaks_of_groups_only_where_there_are_some(tmp_path):
    for i in range(12):
        draw(tmp_path / "in" / "ab"[i % 2] / f"{i}.png", i)
    assert split(tmp_path / "in", tmp_path / "alone").notes == ()
    for i in range(2):
        draw(tmp_path / "in" / "a" / f"again{i}.png", i * 2)
    assert split(tmp_path / "in", tmp_path / "two").notes == ("Groups of 2 images that stayed in one part: 2.",)
