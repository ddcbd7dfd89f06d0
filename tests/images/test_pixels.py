import os

import numpy as np
import pytest
from PIL import Image

from tlopt.errors import ImagesError, StageError
from tlopt.images import batches, scan
from tlopt.images.opening import open_pixels
from tlopt.images.store import key_of, make_room
from tlopt.preprocess import Preprocess
from tlopt.reading.image_files import read_image

PREPROCESS = Preprocess(size=24)
SHAPES = [(40, 40), (30, 50), (57, 33), (24, 24), (200, 11), (11, 203), (13, 26)]


@pytest.fixture
def photos(tmp_path):
    chance = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, (width, height) in enumerate(SHAPES):
            pixels = chance.integers(0, 255, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def crops(pixels):
    return np.stack([pixels.crop(i) for i in range(len(pixels))])


def test_crops_are_the_pixels_that_preprocessing_gives(photos, tmp_path):
    folder = scan(photos)
    expected = np.concatenate([b.inputs for b in batches(folder, PREPROCESS, batch=5)])
    with_cache = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled()
    np.testing.assert_array_equal(PREPROCESS.normalize(crops(with_cache)), expected)


def test_a_second_opening_decodes_nothing(photos, tmp_path, monkeypatch):
    folder = scan(photos)
    first = crops(open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled())

    def refuse(path):
        raise AssertionError(path)

    monkeypatch.setattr("tlopt.images.pixels.read_image", refuse)
    second = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache")
    np.testing.assert_array_equal(crops(second.filled()), first)
    streamed = np.concatenate([batch for batch, _ in second.fill(batch=4)])
    np.testing.assert_array_equal(streamed, first)


def test_images_deleted_after_decoding_are_not_missed(photos, tmp_path):
    folder = scan(photos)
    pixels = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled()
    for name in folder.files:
        (photos / name).unlink()
    assert crops(pixels).shape == (len(folder), 24, 24, 3)


def test_a_run_beside_the_one_that_fills_the_cache_works_on_its_own(photos, tmp_path):
    folder = scan(photos)
    first = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache")
    second = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled()
    np.testing.assert_array_equal(crops(second), crops(first.filled()))
    assert len(list((tmp_path / "cache" / "pixels").glob("*.u8"))) == 1


def test_a_set_that_a_killed_run_left_half_made_is_made_anew(photos, tmp_path):
    folder = scan(photos)
    killed = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache")
    killed.at(0)
    os.close(killed._publish[1])  # what the system does to the lock of a dead process
    assert len(crops(open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled())) == len(folder)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_what_links_in_a_shared_cache_lead_to_is_not_written_over(photos, tmp_path, link):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "cache" / "pixels").mkdir(parents=True)
    for suffix in (".part", ".json"):
        link(tmp_path / "mine", tmp_path / "cache" / "pixels" / f"{key_of(scan(photos), PREPROCESS)}{suffix}")
    assert len(crops(open_pixels(scan(photos), PREPROCESS, cache=tmp_path / "cache").filled())) == 2 * len(SHAPES)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_lock_in_a_shared_cache_that_leads_elsewhere_is_not_followed(photos, tmp_path):
    (tmp_path / "cache" / "pixels").mkdir(parents=True)
    lock = tmp_path / "cache" / "pixels" / f"{key_of(scan(photos), PREPROCESS)}.lock"
    lock.symlink_to(tmp_path / "made")
    with pytest.raises(StageError, match="cannot be kept"):
        open_pixels(scan(photos), PREPROCESS, cache=tmp_path / "cache")
    assert not (tmp_path / "made").exists()


def test_a_shortened_file_is_made_anew(photos, tmp_path):
    folder = scan(photos)
    expected = crops(open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled())
    (file,) = (tmp_path / "cache" / "pixels").glob("*.u8")
    os.truncate(file, 100)
    np.testing.assert_array_equal(crops(open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled()), expected)


def test_an_unreadable_image_is_left_out_and_reported(photos, tmp_path):
    (photos / "a" / "3.png").write_bytes(b"no image")
    for _ in range(2):
        pixels = open_pixels(scan(photos), PREPROCESS, cache=tmp_path / "cache").filled()
        assert len(pixels) == 2 * len(SHAPES) - 1
        assert "a/3.png" not in pixels.files
        assert list(pixels.unreadable.reasons) == ["a/3.png"]
        assert len(pixels.labels) == len(pixels)


def test_an_image_that_was_unreadable_for_a_moment_is_found_again(photos, tmp_path, monkeypatch):
    def briefly_away(file):
        if file.name == "3.png" and file.parent.name == "a":
            raise ImagesError(f"{file} cannot be read: Stale file handle")
        return read_image(file)

    folder = scan(photos)
    monkeypatch.setattr("tlopt.images.pixels.read_image", briefly_away)
    assert len(open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled()) == len(folder) - 1
    monkeypatch.undo()
    again = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled()
    assert not again.unreadable.reasons
    np.testing.assert_array_equal(crops(again), crops(open_pixels(folder, PREPROCESS, cache_gb=0).filled()))


def test_too_many_unreadable_images_stop_the_work(photos, tmp_path):
    for i in range(3):
        (photos / "a" / f"{i}.png").write_bytes(b"")
    with pytest.raises(ImagesError, match="cannot be read"):
        open_pixels(scan(photos), PREPROCESS, cache=tmp_path / "cache").filled()


def test_what_was_unused_for_longest_makes_room(photos, tmp_path):
    root = tmp_path / "cache"
    features = root / "features" / f"{'0' * 32}.npz"
    features.parent.mkdir(parents=True)
    features.write_bytes(bytes(1000))
    os.utime(features, (10, 10))
    for size in (16, 20, 24):
        open_pixels(scan(photos), Preprocess(size=size), cache=root).filled().close()
    files = sorted((root / "pixels").glob("*.u8"), key=lambda file: file.stat().st_size)
    for age, file in enumerate(files):
        os.utime(file, (1000 - age, 1000 - age))
    make_room(root, cache_gb=files[0].stat().st_size / 1e9)
    assert list((root / "pixels").glob("*.u8")) == [files[0]]
    assert not features.exists()


def test_opening_a_kept_set_makes_room_too(photos, tmp_path):
    root = tmp_path / "cache"
    open_pixels(scan(photos), PREPROCESS, cache=root).filled().close()
    features = root / "features" / f"{'0' * 32}.npz"
    features.parent.mkdir()
    features.write_bytes(bytes(1000))
    os.utime(features, (10, 10))
    (kept,) = (root / "pixels").glob("*.u8")
    open_pixels(scan(photos), PREPROCESS, cache=root, cache_gb=kept.stat().st_size / 1e9).close()
    assert kept.exists()
    assert not features.exists()


def test_a_folder_that_cannot_be_written_is_named(photos, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StageError, match=r"cannot be kept in .*cache"):
        open_pixels(scan(photos), PREPROCESS, cache=tmp_path / "cache")


def test_a_full_disk_is_reported(photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StageError, match="No space left"):
        open_pixels(scan(photos), PREPROCESS, cache=tmp_path / "cache").filled()


def test_images_are_decoded_when_they_are_asked_for_and_published_with_the_last(photos, tmp_path):
    folder = scan(photos)
    expected = open_pixels(folder, PREPROCESS, cache_gb=0).filled()
    pixels = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache")
    for position in reversed(range(len(folder))):
        assert not list((tmp_path / "cache" / "pixels").glob("*.json"))
        np.testing.assert_array_equal(pixels.at(position), expected.at(position))
    stored = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache")
    for position in range(len(folder)):
        np.testing.assert_array_equal(stored.at(position), expected.at(position))


def test_a_cache_never_grows_beyond_its_bound(photos, tmp_path):
    folder = scan(photos)
    expected = crops(open_pixels(folder, PREPROCESS, cache_gb=0).filled())
    for _ in range(2):
        pixels = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache", cache_gb=2e-5).filled()
        np.testing.assert_array_equal(crops(pixels), expected)
        (file,) = (tmp_path / "cache" / "pixels").glob("*.u8")
        assert 0 < file.stat().st_size <= 20_000
    # With more room, what did not fit is kept after all.
    np.testing.assert_array_equal(crops(open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled()), expected)
    assert file.stat().st_size > 20_000


def test_closing_a_cache_half_made_leaves_it_to_others(photos, tmp_path):
    folder = scan(photos)
    half = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache")
    half.at(0)
    half.close()
    assert not list((tmp_path / "cache" / "pixels").glob("*.part"))
    assert open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled()._publish is None
    assert len(list((tmp_path / "cache" / "pixels").glob("*.u8"))) == 1


def test_the_next_readable_image_stands_in_for_one_that_is_not(photos, tmp_path):
    (photos / "b" / "6.png").unlink()
    (photos / "b" / "6.png").write_bytes(b"no image")
    pixels = open_pixels(scan(photos), PREPROCESS, cache_gb=0)
    image, position = pixels.readable(13)
    assert position == 0
    np.testing.assert_array_equal(image, pixels.at(0))


@pytest.mark.parametrize("cache_gb", [0, 1, 1e-5])
def test_a_part_has_the_pixels_of_the_whole(photos, tmp_path, cache_gb):
    whole = open_pixels(scan(photos), PREPROCESS, cache=tmp_path / "cache", cache_gb=cache_gb).filled()
    expected = crops(whole)
    part = whole.part(np.array([9, 2, 4]))
    whole.close()
    np.testing.assert_array_equal(crops(part), expected[[9, 2, 4]])
    assert part.labels.tolist() == [1, 0, 0]
    part.close()
