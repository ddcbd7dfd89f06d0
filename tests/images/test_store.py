"""What becomes of a cache that was damaged, killed or shared."""

import json
import logging
import os
import threading

import numpy as np
import pytest
from PIL import Image

from tlopt.images import scan
from tlopt.images.opening import open_pixels
from tlopt.images.store import make_room
from tlopt.preprocess import Preprocess

PREPROCESS = Preprocess(size=24)


@pytest.fixture
def folder(tmp_path):
    chance = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            pixels = chance.integers(0, 255, (30 + i, 40 - i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return scan(tmp_path / "photos")


@pytest.fixture
def expected(folder):
    return crops(open_pixels(folder, PREPROCESS, cache_gb=0).filled())


@pytest.fixture
def kept(folder, tmp_path):
    """A complete set in the cache."""
    open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled().close()
    (file,) = (tmp_path / "cache" / "pixels").glob("*.u8")
    return file


def crops(pixels):
    return np.stack([pixels.crop(i) for i in range(len(pixels))])


def reopened(folder, kept):
    pixels = open_pixels(folder, PREPROCESS, cache=kept.parents[1]).filled()
    found = crops(pixels)
    pixels.close()
    return found


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    with file.open("r+b") as handle:
        handle.write(content)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_a_flipped_bit_never_reaches_the_network(folder, expected, kept, caplog, share):
    sound = kept.read_bytes()
    flip(kept, int(share * len(sound)))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(reopened(folder, kept), expected)
    assert "is damaged" in caplog.text
    assert kept.read_bytes() == sound
    caplog.clear()
    np.testing.assert_array_equal(reopened(folder, kept), expected)
    assert not caplog.records


def test_a_bit_that_flips_while_others_read_is_found_too(folder, expected, kept):
    pixels = open_pixels(folder, PREPROCESS, cache=kept.parents[1])
    flip(kept, 100)
    found = []
    threads = [threading.Thread(target=lambda: found.append(crops(pixels))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for one in found:
        np.testing.assert_array_equal(one, expected)
    assert len(pixels) == len(folder)


def test_a_damaged_set_that_may_not_be_written_is_decoded_each_time(folder, expected, kept, monkeypatch):
    flip(kept, 100)

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "pwrite", refuse)
    np.testing.assert_array_equal(reopened(folder, kept), expected)


def test_pixels_of_another_decoder_are_made_anew_by_the_next_run(folder, kept, monkeypatch):
    index = kept.with_suffix(".json")
    # Threads decode the images: any of them may lie first in the file.
    first = [place[0] for place in json.loads(index.read_text())["places"]].index(0)
    flip(kept, 0)
    own = Preprocess.resized
    monkeypatch.setattr(Preprocess, "resized", lambda self, image: 255 - np.asarray(own(self, image)))
    other = crops(open_pixels(folder, PREPROCESS, cache_gb=0).filled())
    np.testing.assert_array_equal(reopened(folder, kept)[first], other[first])
    assert not index.exists()
    np.testing.assert_array_equal(reopened(folder, kept), other)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"places": "none", "limit": 1, "checksum": 0}',
        b'{"places": [[1e400, 2, 3, 4]], "limit": 1, "checksum": 0}',
        b'{"places": [[0, 24, 24, 1]], "limit": null, "checksum": 0}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_index_is_made_anew(folder, expected, kept, caplog, content):
    kept.with_suffix(".json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(reopened(folder, kept), expected)
    assert "is damaged" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(reopened(folder, kept), expected)
    assert not caplog.records


def test_an_index_whose_numbers_changed_is_made_anew(folder, expected, kept):
    index = json.loads(kept.with_suffix(".json").read_text())
    index["places"][0], index["places"][1] = index["places"][1], index["places"][0]
    kept.with_suffix(".json").write_text(json.dumps(index))
    np.testing.assert_array_equal(reopened(folder, kept), expected)


def test_a_pipe_in_the_place_of_a_set_or_its_index_does_not_hang(folder, expected, kept):
    kept.with_suffix(".json").unlink()
    os.mkfifo(kept.with_suffix(".json"))
    np.testing.assert_array_equal(reopened(folder, kept), expected)
    kept.unlink()
    os.mkfifo(kept)
    np.testing.assert_array_equal(reopened(folder, kept), expected)


def test_what_killed_runs_left_is_swept_away(folder, kept):
    pixels, features = kept.parent, kept.parents[1] / "features"
    features.mkdir()
    left = [
        pixels / f".{kept.stem}.json.part-0123abcd",
        pixels / f"{kept.stem}.json.4711",
        pixels / f"{'0' * 32}.part",
        pixels / f"{'0' * 32}.lock",
        features / f"{kept.stem}.4711",
        features / f".{kept.stem}.npz.part-0123abcd",
    ]
    for file in left:
        file.write_bytes(b"half")
    running = open_pixels(folder, Preprocess(size=16), cache=kept.parents[1])
    make_room(kept.parents[1], cache_gb=20)
    assert not [file for file in left if file.exists()]
    assert kept.exists()
    assert running.filled()._publish is None
    assert len(list(pixels.glob("*.u8"))) == 2


def test_what_a_user_keeps_in_the_folder_of_the_cache_is_never_deleted(kept):
    root = kept.parents[1]
    (root / "features").mkdir()
    mine = [
        root / name
        for name in (
            "features/train.npz", "features/.train.npz.part-0123abcd", "features/a.json.1", "pixels/film.part",
            "pixels/poetry.lock", "pixels/raw.u8", "pixels/.film.mp4.part-0123abcd",
        )
    ]  # fmt: skip
    for file in mine:
        file.write_bytes(b"mine")
        os.utime(file, (10, 10))
    make_room(root, cache_gb=0)
    assert all(file.read_bytes() == b"mine" for file in mine)
    assert not kept.exists()


def test_many_runs_at_once_make_one_set(folder, expected, tmp_path):
    found = []

    def run():
        pixels = open_pixels(folder, PREPROCESS, cache=tmp_path / "cache").filled()
        found.append(crops(pixels))
        pixels.close()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for one in found:
        np.testing.assert_array_equal(one, expected)
    names = sorted(file.suffix for file in (tmp_path / "cache" / "pixels").iterdir())
    assert names == [".json", ".lock", ".u8"]


def test_a_set_that_is_dropped_while_it_is_remade_stays_one_run_s_own(folder, expected, tmp_path):
    root = tmp_path / "cache"
    open_pixels(folder, PREPROCESS, cache=root, cache_gb=2e-5).filled().close()
    first = open_pixels(folder, PREPROCESS, cache=root)  # has more room, so it is made anew
    first.at(0)
    make_room(root, cache_gb=0)
    second = open_pixels(folder, PREPROCESS, cache=root).filled()
    np.testing.assert_array_equal(crops(first.filled()), expected)
    np.testing.assert_array_equal(crops(second), expected)
