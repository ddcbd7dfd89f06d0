"""Names that mean something to a terminal, to matplotlib, to XML or to nobody."""

import os
from datetime import UTC, datetime
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import tlopt
from tlopt.cli import root, terminal
from tlopt.errors import ImagesError, SettingError
from tlopt.measure.predict import Prediction
from tlopt.reports import Report
from tlopt.reports.bars import bars
from tlopt.reports.page import page
from tlopt.reports.picture import Point, picture
from tlopt.training.outcome import pictures

ODD = ("$100_$200", "$a$", r"\\$x$", "caf\udce9", "\x1b[31mred", "a\nb", "<b>&amp;\"'", "_hidden", "\x00", "{x}", "%s")
UNSAFE = ("\x1b", "\udce9", "\x00")


def well_formed(svg: str) -> str:
    ElementTree.fromstring(svg)
    svg.encode("utf-8")
    return svg


def write_images(folder: os.PathLike[str] | str, *classes: bytes) -> None:
    random = np.random.default_rng(0)
    for label, name in enumerate(classes):
        place = os.path.join(os.fsencode(folder), name)
        os.makedirs(place)
        for i in range(6):
            pixels = random.integers(0, 100, (20, 20, 3)) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(os.path.join(place, b"%d.png" % i))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"caf\xe9", r"class caf\\xe9 of .*photos is not written in UTF-8"),
        (b"\x1b[31mred", r"class \\x1b\[31mred of .*photos holds the control character \\x1b"),
        (b"two\nlines", r"class two\\x0alines of .*photos holds the control character \\x0a"),
    ],
)
def test_class_folders_that_could_not_be_shown_are_refused_before_any_image_is_decoded(
    name, told, tmp_path, monkeypatch
):
    write_images(tmp_path / "photos", name, b"plain")
    monkeypatch.setattr("tlopt.reading.image_files.opened", None)
    with pytest.raises(ImagesError, match=told):
        tlopt.finetune(tmp_path / "photos", tmp_path / "out", model="tiny_models:cnn", epochs=1)
    assert not (tmp_path / "out").exists()


def test_a_manifest_and_a_list_of_classes_are_held_to_the_same(tmp_path):
    write_images(tmp_path / "photos", b"a", b"b")
    table = tmp_path / "photos" / "table.csv"
    table.write_text("path,label\na/0.png,\x1b[31mred\nb/0.png,b\n")
    with pytest.raises(ImagesError, match=r"holds the control character \\x1b"):
        tlopt.scan(table)
    (tmp_path / "classes.json").write_text('["a", "\\ud800"]')
    with pytest.raises(SettingError, match="is not Unicode text"):
        tlopt.import_model(None, tmp_path / "out", model="tiny_models:cnn", classes=tmp_path / "classes.json")


def test_a_class_that_is_a_formula_to_matplotlib_trains(tmp_path):
    write_images(tmp_path / "photos", b"$100_$200", b"<plain>")
    made = tlopt.finetune(
        tmp_path / "photos", tmp_path / "out", model="tiny_models:cnn", epochs=1, image_size=16, cache_gb=0
    )
    assert made.card.classes == ("$100_$200", "<plain>")
    well_formed((made.path / "confusion_matrix.svg").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_pictures_are_well_formed_whatever_the_names(tmp_path):
    pictures.confusion_matrix(np.eye(len(ODD), dtype=np.int64), ODD, tmp_path / "matrix.svg")
    well_formed((tmp_path / "matrix.svg").read_text(encoding="utf-8"))
    point = Point(label="", precision="$x_$", runtime="$y_$", latency_ms=1.0, accuracy=0.5, low=0.4, high=0.6)
    points = [Point(**{**point.__dict__, "label": name, "latency_ms": 1.0 + i}) for i, name in enumerate(ODD)]
    for title in ODD:
        well_formed(picture(points, title=title))
    well_formed(bars([(name, name, 1.0) for name in ODD], dict.fromkeys(ODD, 1.0), title=ODD[0]))


def report() -> Report:
    rows = tuple({"artifact": name, "accuracy": 0.5, "backend": "x"} for name in ODD)
    return Report(
        title="\x1b[31m", rows=(*rows, {"artifact": "\x1b", "skipped": "\x1b"}), notes=ODD, conditions={"a": ODD[3]}
    )


def test_tables_and_pages_hold_no_control_characters():
    for text in (report().table(), report().to_csv(), report().to_markdown(), page(report(), made=datetime.now(UTC))):
        text.encode("utf-8")
        assert not any(character in text for character in UNSAFE)
    assert r"\x1b[31mred" in report().table()
    assert r"caf\xe9" in report().to_csv()


def test_predictions_and_what_is_said_on_stderr_hold_none(capsys):
    line = Prediction(file="\x1b[2J/caf\udce9.png", classes=("\x1b[31mred",), probabilities=(1.0,)).line()
    assert line == "\\x1b[2J/caf\\xe9.png\t\\x1b[31mred 1.000"
    terminal.complain("Warning: left out: \x1b[31m\nnext")
    assert capsys.readouterr().err == "Warning: left out: \\x1b[31m\nnext\n"


def test_the_command_line_shows_file_names_safely(exported, tmp_path):
    write_images(tmp_path / "photos", b"caf\xe9")
    done = CliRunner().invoke(root(), ["predict", str(exported.path), str(tmp_path / "photos")])
    assert done.exit_code == 0
    assert r"caf\xe9/0.png" in done.output
