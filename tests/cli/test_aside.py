"""What libraries and networks print is no result: it goes to stderr."""

from __future__ import annotations

import json

import pytest
from calling import called
from tiny_images import write_photos

import tlopt


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loud")
    (folder / "names.txt").write_text("a\nb\nc\n")
    tlopt.trust("odd_nets")
    return tlopt.import_model(
        None, folder / "net", model="odd_nets:loud", classes=folder / "names.txt", image_size=32
    )  # fmt: skip


def test_results_stay_clean_where_a_network_prints(loud, tmp_path, capsys):
    photos = write_photos(tmp_path / "photos")
    capsys.readouterr()
    code, out, err = called(capsys, "predict", loud.path, next(photos.glob("*/*")), "--json", "--trust", "odd_nets")
    assert code == 0, err
    assert [json.loads(line) for line in out.splitlines()]
    assert "made" in err
    assert "runs" in err
    code, out, err = called(capsys, "export", loud.path, "-o", tmp_path / "onnx", "--trust", "odd_nets")
    assert (code, out) == (0, f"{tmp_path / 'onnx'}\n"), err
