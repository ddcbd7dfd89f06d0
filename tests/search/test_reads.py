import os

import pytest

from tlopt.search.study.reads import named, quick_digest


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "1.png").write_text("1")
    return tmp_path / "images"


def _digest(images, *more):
    return quick_digest({"budget": 1}, [images, *more])


def test_what_settings_name_is_read_if_it_is_there(images, tmp_path):
    file = tmp_path / "w=1.safetensors"
    file.write_text("w")
    (tmp_path / "made").mkdir()
    models, weights = ("timm:x", str(tmp_path / "made"), "x" * 5000), (f"timm:x[a=1]={file}", "timm:y=none")
    assert named(images, tmp_path / "moved", models, weights) == (
        images, tmp_path / "moved", tmp_path / "made", file,
    )  # fmt: skip


def test_a_changed_file_of_weights_changes_the_digest(images, tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_text("1")
    before = _digest(images, file)
    assert _digest(images, file) == before
    file.write_text("12")
    assert _digest(images, file) != before


def test_a_changed_file_behind_a_manifest_changes_the_digest(images, tmp_path):
    listed = tmp_path / "all.csv"
    listed.write_text("path,label\nimages/a/1.png,a\n")
    before = _digest(listed)
    (images / "a" / "1.png").write_text("12")
    assert _digest(listed) != before


def test_one_file_that_is_gone_hides_no_other(images, tmp_path):
    (images / "0.png").symlink_to(tmp_path / "gone")
    (images / "a" / "0.png").symlink_to(tmp_path / "gone")
    before = _digest(images)
    (images / "a" / "1.png").write_text("12")
    assert _digest(images) != before


def test_folders_behind_links_are_seen_and_circles_end(images, tmp_path):
    (tmp_path / "b").mkdir()
    (images / "b").symlink_to(tmp_path / "b")
    os.symlink(images, images / "a" / "circle")
    before = _digest(images)
    (tmp_path / "b" / "2.png").write_text("2")
    assert _digest(images) != before
