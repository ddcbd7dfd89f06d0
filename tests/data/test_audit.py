import csv
import json

import numpy as np
import pytest
from drawing import draw, picture
from PIL import Image

from tlopt.data import audit
from tlopt.errors import ImagesError, OutputError, OutputExistsError, SettingError
from tlopt.images import scan


@pytest.fixture
def messy(animals):
    """One image with each thing that an audit looks for."""
    cats = animals / "cat"
    (cats / "empty.jpg").touch()
    (cats / "cut.png").write_bytes((cats / "00.png").read_bytes()[:1000])
    picture(100).save(cats / "liar.jpg", "PNG")
    exif = Image.Exif()
    exif[0x0112] = 8
    picture(101).save(cats / "turned.jpg", exif=exif)
    picture(102).convert("CMYK").save(cats / "print.jpg")
    picture(103).quantize(16).save(cats / "palette.png")
    picture(104).convert("RGBA").save(cats / "alpha.png")
    deep = np.asarray(picture(105).convert("L"), np.uint16) * 257
    Image.fromarray(deep).save(cats / "deep.png")
    picture(106).save(cats / "film.gif", save_all=True, append_images=[picture(107)])
    picture(108, 600, 60).save(cats / "long.png")
    (cats / "notes.txt").write_text("no image")
    (cats / "copy.png").write_bytes((cats / "01.png").read_bytes())
    (animals / "dog" / "cat.png").write_bytes((cats / "02.png").read_bytes())
    picture(3).resize((160, 128)).save(cats / "larger.png")
    return animals


FOUND = {
    "unreadable": ["cat/cut.png", "cat/empty.jpg"],
    "wrong-suffix": ["cat/liar.jpg"],
    "rotated": ["cat/turned.jpg"],
    "cmyk": ["cat/print.jpg"],
    "alpha": ["cat/alpha.png"],
    "deep-grey": ["cat/deep.png"],
    "animated": ["cat/film.gif"],
    "odd-size": ["cat/long.png"],
    "passed-over": ["cat/notes.txt"],
    "conflict": ["cat/02.png", "dog/cat.png"],
    "near-duplicate": ["cat/03.png", "cat/larger.png"],
}


@pytest.mark.parametrize("kind", FOUND)
def test_audit_finds(messy, kind):
    found = audit(messy, labels=False).of(kind)
    assert sorted(file for finding in found for file in finding.files) == FOUND[kind]


def test_audit_finds_palettes_and_copies(messy):
    result = audit(messy, labels=False)
    assert "cat/palette.png" in [finding.files[0] for finding in result.of("palette")]
    assert ("cat/01.png", "cat/copy.png") in [finding.files for finding in result.of("duplicate")]


def test_audit_of_clean_images_finds_nothing(animals):
    result = audit(animals, labels=False)
    assert result.findings == ()
    assert "Nothing was found" in result.to_report().table()


def test_audit_finds_leaks_between_parts(tmp_path):
    for i in range(60):
        draw(tmp_path / ("train" if i < 40 else "test") / "ab"[i % 2] / f"{i}.png", i)
    picture(0).save(tmp_path / "test" / "a" / "leak.jpg", quality=80)
    (leak,) = audit(tmp_path, labels=False).of("leak")
    assert leak.files == ("test/a/leak.jpg", "train/a/0.png")
    assert "in train and test" in leak.detail


def test_audit_finds_imbalance(tmp_path):
    for i in range(60):
        draw(tmp_path / ("rare" if i < 5 else "common") / f"{i}.png", i)
    first, second = audit(tmp_path, labels=False).of("imbalance")
    assert "common has 55 training images, rare 5: 11.0 times as many" in first.detail
    assert "rare has only 5" in second.detail


def test_audit_suspects_a_swapped_label(tmp_path, tiny_network):
    pytest.importorskip("cleanlab")
    random = np.random.default_rng(0)
    for i in range(60):
        shade = (60 if i % 2 else 190) + random.integers(-30, 30, (16, 16, 3))
        path = tmp_path / ("dark" if i % 2 else "light") / f"{i}.png"
        if i == 7:
            path = tmp_path / "light" / "swapped.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(shade.astype(np.uint8)).save(path)
    (suspect,) = audit(tmp_path).of("wrong-label")
    assert suspect.files == ("light/swapped.png",)
    assert suspect.suggestion == "dark"


def test_audit_says_why_labels_were_not_checked(animals, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.delitem(sys.modules, "cleanlab.filter", raising=False)
    said = "Labels were not checked: The package cleanlab is not installed. python -m pip install 'tlopt[audit]'"
    assert said in " ".join(audit(animals).notes)


def test_fix_writes_a_copy_in_which_nothing_is_left_to_fix(messy, tmp_path):
    before = {file: file.read_bytes() for file in messy.rglob("*") if file.is_file()}
    result = audit(messy, labels=False, fix=tmp_path / "fixed")
    assert {file: file.read_bytes() for file in messy.rglob("*") if file.is_file()} == before
    after = audit(tmp_path / "fixed", labels=False)
    assert {finding.kind for finding in after.findings} <= {"odd-size"}
    assert scan(tmp_path / "fixed").files == result.cleaned.images.files
    assert (tmp_path / "fixed/cat/05.png").read_bytes() == before[messy / "cat/05.png"]
    assert (tmp_path / "fixed/cat/liar.png").read_bytes() == before[messy / "cat/liar.jpg"]
    with Image.open(tmp_path / "fixed/cat/turned.jpg") as turned:
        assert turned.size == (64, 80)
    log = {row["file"]: row for row in csv.DictReader((tmp_path / "fixed/log.csv").read_text().splitlines())}
    assert log["cat/empty.jpg"]["reason"] == "unreadable: it is empty"
    assert log["cat/copy.png"]["reason"] == "a copy of cat/01.png"
    assert log["cat/03.png"]["reason"] == "a near duplicate of cat/larger.png"
    assert log["cat/02.png"]["action"] == log["dog/cat.png"]["action"] == "left out"
    assert log["cat/liar.jpg"]["reason"] == "suffix corrected"
    assert log["cat/turned.jpg"]["reason"] == "turned upright"


def test_fix_keeps_the_copy_of_the_test_part(tmp_path):
    for i in range(40):
        draw(tmp_path / "in" / ("train" if i < 30 else "test") / "ab"[i % 2] / f"{i}.png", i)
    (tmp_path / "in/test/a/leak.png").write_bytes((tmp_path / "in/train/a/0.png").read_bytes())
    cleaned = audit(tmp_path / "in", labels=False, fix=tmp_path / "out").cleaned
    assert [left.file for left in cleaned.left_out] == ["train/a/0.png"]


def test_fix_refuses_to_lose_a_class(tmp_path):
    for i in range(4):
        draw(tmp_path / "in" / "ab"[i % 2] / f"{i // 2}.png", i // 2)
    with pytest.raises(ImagesError, match="No image of the class a would remain"):
        audit(tmp_path / "in", labels=False, fix=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_shows_what_was_found_and_escapes_names(messy, tmp_path):
    (messy / "cat" / "<b>bold.jpg").touch()
    audit(messy, labels=False, html=tmp_path / "page" / "audit.html")
    text = (tmp_path / "page" / "audit.html").read_text()
    assert "<b>bold" not in text
    assert "&lt;b&gt;bold" in text
    assert "data:image/jpeg;base64," in text
    assert "http" not in text.replace("http-equiv", "")
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["audit.html"]


def test_json_lists_every_finding(messy):
    result = audit(messy, labels=False)
    content = json.loads(result.to_json())
    assert len(content["details"]["findings"]) == len(result.findings)
    assert content["details"]["classes"][1] == {"class": "dog", "images": 25}


def test_audit_refuses_to_overwrite_and_bad_settings(animals, tmp_path):
    (tmp_path / "page.html").write_text("<!DOCTYPE html>\nmine")
    for force in (False, True):
        with pytest.raises(OutputExistsError, match="exists already, and is not a page of tlopt"):
            audit(animals, labels=False, html=tmp_path / "page.html", force=force)
    (tmp_path / "page.html").unlink()
    audit(animals, labels=False, html=tmp_path / "page.html")
    with pytest.raises(OutputExistsError, match="exists already") as raised:
        audit(animals, labels=False, html=tmp_path / "page.html")
    assert "--force" in raised.value.hint
    with pytest.raises(SettingError, match="similarity must be between"):
        audit(animals, similarity=2)
    audit(animals, labels=False, html=tmp_path / "page.html", force=True)


def test_no_page_is_written_among_the_images(animals):
    for name in ("cat/audit.html", "new/audit.html"):
        with pytest.raises(OutputError, match="lies among the images"):
            audit(animals, labels=False, html=animals / name)
    assert not (animals / "new").exists()


def test_classes_that_differ_by_case_alone_are_found(tmp_path):
    for name in ("Glass", "glass", "paper"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
            tmp_path / name / "x.png"
        )
    found = audit(tmp_path, labels=False).of("alike-classes")
    assert [finding.detail for finding in found] == ["Glass and glass"]
