"""What is said of a folder of tlopt where images are expected."""

import json
import shutil

import pytest
from tiny_images import write_photos

from tlopt.errors import ImagesError
from tlopt.images import scan
from tlopt.images.scanning import every_image, image_files, scan_any
from tlopt.measure.find_lr import find_lr
from tlopt.measure.predict import predict

FINDERS = (scan, scan_any, every_image, image_files)


@pytest.mark.parametrize("find", FINDERS)
def test_an_artifact_is_no_folder_of_images(find, tuned, photos):
    with pytest.raises(ImagesError) as caught:
        find(tuned.path)
    assert caught.value.message == f"{tuned.path} is an artifact, not a folder of images."
    assert caught.value.hint == f"The images that it was trained on are in {photos}."


def test_commands_say_what_an_artifact_is(tuned):
    with pytest.raises(ImagesError, match="is an artifact, not a folder of images"):
        find_lr(tuned.path, model="tiny_models:cnn")
    with pytest.raises(ImagesError, match="is an artifact, not a folder of images"):
        predict(tuned, tuned.path)


@pytest.mark.parametrize("find", FINDERS)
def test_a_search_is_no_folder_of_images(find, tuned, photos, tmp_path):
    (tmp_path / "optimize.json").write_text(json.dumps({"tlopt": "1", "identity": "", "study": ""}))
    shutil.copytree(tuned.path, tmp_path / "best")
    (tmp_path / "work").mkdir()
    with pytest.raises(ImagesError, match="is a search, not a folder of images") as caught:
        find(tmp_path)
    assert caught.value.hint == f"The images that it was trained on are in {photos}."


@pytest.mark.parametrize("find", FINDERS)
def test_a_report_is_no_folder_of_images(find, tmp_path):
    _report(tmp_path)
    with pytest.raises(ImagesError, match="is a report, not a folder of images") as caught:
        find(tmp_path)
    assert "one folder per class" in caught.value.hint


def test_a_report_may_lie_beside_images(tmp_path):
    photos = write_photos(tmp_path / "photos", per_class=1)
    _report(photos)
    (photos / "empty").mkdir()
    with pytest.raises(ImagesError, match="empty holds no image"):
        scan(photos)


def _report(folder):
    (folder / "report.json").write_text(json.dumps({"title": "", "rows": [], "conditions": {}}))
