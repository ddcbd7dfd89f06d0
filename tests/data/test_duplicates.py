import io

import numpy as np
import pytest
from drawing import draw, picture
from PIL import Image, ImageEnhance

from tlopt.data import duplicates
from tlopt.data.inspection import inspect_all
from tlopt.images import scan


def compressed(image, quality):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    stream.seek(0)
    return Image.open(stream)


EDITS = {
    "recompressed": lambda image: compressed(image, 50),
    "halved": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_picture_is_found_among_others(animals, edit):
    EDITS[edit](picture(5)).save(animals / "cat" / "edited.png")
    inspections = inspect_all(scan(animals))
    found = duplicates.find(inspections, similarity=0.95)
    assert [[inspections[i].file for i in pair] for pair in found.pairs] == [["cat/05.png", "cat/edited.png"]]
    assert found.similarity[0] < 1


def test_a_turned_jpeg_matches_its_upright_twin(animals):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture(5, 640, 480)
    image.save(animals / "cat" / "upright.jpg", quality=90)
    image.transpose(Image.Transpose.ROTATE_90).save(animals / "cat" / "turned.jpg", quality=90, exif=exif)
    inspections = inspect_all(scan(animals))
    found = duplicates.find(inspections, similarity=0.95)
    assert [inspections[i].file for i in found.pairs[0]] == ["cat/turned.jpg", "cat/upright.jpg"]
    turned = inspections[found.pairs[0, 0]]
    assert (turned.width, turned.height, turned.orientation) == (640, 480, 6)


def test_similarity_1_finds_equal_content_only(animals):
    (animals / "dog" / "copy.png").write_bytes((animals / "cat" / "03.png").read_bytes())
    compressed(picture(5), 80).save(animals / "cat" / "edited.png")
    found = duplicates.find(inspect_all(scan(animals)), similarity=1)
    assert len(found.pairs) == 1
    assert found.similarity.tolist() == [1]


def test_plain_images_are_no_near_duplicates(tmp_path):
    for i, color in enumerate([(0, 0, 0), (250, 250, 250), (200, 0, 0), (1, 1, 1)]):
        draw(tmp_path / "ab"[i % 2] / f"x{i}.png", i)
        Image.new("RGB", (40, 40), color).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    assert not len(duplicates.find(inspect_all(scan(tmp_path)), similarity=0.9).pairs)


def test_candidates_are_those_of_a_plain_search():
    random = np.random.default_rng(0)
    low = random.integers(0, 2**64, 300, dtype=np.uint64)
    low[100:200] = low[:100] ^ (np.uint64(1) << random.integers(0, 64, 100, dtype=np.uint64))
    found = {tuple(pair) for pair in duplicates._candidates(low, low.copy()).tolist()}
    expected = {
        (a, b)
        for a in range(300)
        for b in range(a + 1, 300)
        if (distance := (int(low[a]) ^ int(low[b])).bit_count()) <= 10 and 2 * distance <= 18
    }
    assert found == expected
    assert len(found) >= 100


def test_popcount_works_without_numpy_2(monkeypatch):
    values = np.array([[0, 1], [2**64 - 1, 255]], dtype=np.uint64)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert duplicates._popcount(values).tolist() == [[0, 1], [64, 8]]


def test_a_chain_of_near_duplicates_keeps_more_than_one():
    pairs = np.array([[0, 1], [1, 2], [2, 3]])
    chain = duplicates.Duplicates(pairs=pairs, similarity=np.ones(3), groups=duplicates.connected(5, pairs))
    assert [group.tolist() for group in chain.members()] == [[0, 1, 2, 3]]
    assert chain.superfluous(range(5)) == {1: 0, 3: 2}
