import io
import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

import tlopt
from tlopt.errors import ArtifactError, ImagesError, SettingError, TloptError
from tlopt.reading import image_files

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def special(tmp_path):
    """Two classes of 12 images, with a pipe, a link to a device and a folder that go by the names of images."""
    random = np.random.default_rng(0)
    for label, name in enumerate("ab"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 100, (24, 24, 3)) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{i:02}.png")
    os.mkfifo(tmp_path / "photos" / "a" / "pipe.jpg")
    (tmp_path / "photos" / "b" / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "photos" / "b" / "folder.jpg").mkdir()
    return tmp_path / "photos"


def test_postscript_is_no_image_and_starts_no_program(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a program is started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(subprocess, "check_call", refuse)
    (tmp_path / "a.jpg").write_bytes(POSTSCRIPT)
    with pytest.raises(ImagesError, match=r"a\.jpg cannot be read as an image: its content is none of JPEG, PNG"):
        image_files.read_image(tmp_path / "a.jpg")
    with pytest.raises(ImagesError, match=r"^The content cannot be read as an image: its content is none of"):
        image_files.read_image(io.BytesIO(POSTSCRIPT))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_the_formats_that_suffixes_promise_are_read_from_files_and_streams(name, tmp_path):
    if name not in image_files.formats():
        pytest.skip(f"this Pillow reads no {name}")
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(stream, name)
    (tmp_path / "image").write_bytes(stream.getvalue())
    stream.seek(0)
    for source in (tmp_path / "image", stream):
        assert image_files.read_image(source).size == (16, 16)


@pytest.mark.parametrize("name", ["EPS", "PDF", "PCX", "TGA", "ICO", "DDS"])
def test_other_formats_are_refused_whatever_their_name(name, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "x", name)
    shutil.copyfile(tmp_path / "x", tmp_path / "x.png")
    with pytest.raises(ImagesError, match="its content is none of"):
        image_files.read_image(tmp_path / "x.png")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("1", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImagesError, match="decompression bomb"):
        image_files.read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("file", "what"), [("a/pipe.jpg", "a named pipe"), ("b/zero.jpg", "a device"), ("b/folder.jpg", "a folder")]
)
def test_what_is_no_regular_file_is_no_image(file, what, special):
    with pytest.raises(ImagesError, match=f"cannot be read as an image: it is {what}, no regular file"):
        image_files.read_image(special / file)


def told(caplog) -> list[str]:
    return [record.getMessage().partition("left out: ")[2] for record in caplog.records if "left out" in record.msg]


def expected(special) -> list[str]:
    return [
        f"{special / 'a/pipe.jpg'} is a named pipe, no regular file",
        f"{special / 'b/zero.jpg'} is a device, no regular file",
    ]


def test_a_folder_is_scanned_without_them_and_with_one_warning_each(special, caplog):
    folder = tlopt.scan(special)
    tlopt.scan(special)
    assert len(folder) == 24
    assert len(folder.digest) == 64
    assert told(caplog) == expected(special)


def test_links_in_a_circle_are_unreadable_images_and_no_classes(special):
    whole = tlopt.scan(special)
    for name in ("a/circle.png", "circle"):
        (special / name).symlink_to(special / name)
    folder = tlopt.scan(special)
    assert folder.classes == whole.classes
    assert set(folder.files) - set(whole.files) == {"a/circle.png"}
    assert folder.digest != whole.digest


def test_predict_passes_them_over_alike(special, caplog, exported):
    assert len(list(tlopt.predict(exported, special))) == 24
    assert sorted(told(caplog)) == expected(special)
    with pytest.raises(ImagesError, match=r"pipe\.jpg is a named pipe, no regular file"):
        list(tlopt.predict(exported, special / "a" / "pipe.jpg"))


def test_audit_merge_and_split_pass_them_over_alike(special, caplog, tmp_path):
    assert "24" in tlopt.audit(special, labels=False).to_report().to_json()
    tlopt.split(special, tmp_path / "parts", val=0.2, test=0.2)
    assert len(tlopt.scan(tmp_path / "parts")) == 24
    assert told(caplog) == expected(special)


def test_folders_below_a_class_and_links_to_files_still_count(special):
    (special / "a" / "inner").mkdir()
    shutil.copyfile(special / "a" / "00.png", special / "a" / "inner" / "x.png")
    (special / "a" / "link.png").symlink_to(special / "a" / "01.png")
    (special / "a" / ".hidden").mkdir()
    (special / "a" / ".hidden" / "x.png").symlink_to(special / "a" / "01.png")
    (special / "a" / "round").symlink_to(special / "a")
    found = [file for file in tlopt.scan(special).files if file.startswith("a/")]
    assert len(found) == 14
    assert {"a/inner/x.png", "a/link.png"} < set(found)


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    return tmp_path / "pipe.csv"


def test_a_pipe_in_the_place_of_any_file_is_an_error_at_once(pipe, special, tmp_path, tuned):
    copy = tmp_path / "copy"
    shutil.copytree(tuned.path, copy)
    payload = copy / "model.safetensors"
    payload.unlink()
    os.mkfifo(payload)
    with pytest.raises(ArtifactError, match="is a named pipe, no regular file"):
        tlopt.Artifact.load(copy)
    (copy / "artifact.json").unlink()
    os.mkfifo(copy / "artifact.json")
    with pytest.raises(ArtifactError, match="which is a named pipe, no regular file"):
        tlopt.Artifact.load(copy)
    with pytest.raises(ImagesError, match="is a named pipe, no regular file"):
        tlopt.scan(pipe)
    with pytest.raises(SettingError, match="is a named pipe, no regular file"):
        tlopt.run(pipe)
    with pytest.raises(SettingError, match="is a named pipe, no regular file"):
        tlopt.import_model(None, tmp_path / "out", model="tiny_models:cnn", classes=pipe)
    with pytest.raises(ArtifactError, match="is a named pipe, no regular file"):
        tlopt.import_model(pipe, tmp_path / "out")
    for weights in (pipe, "/dev/zero"):
        with pytest.raises(TloptError, match=r"no regular file"):
            tlopt.finetune(special, tmp_path / "out", model="tiny_models:cnn", weights=weights, epochs=1)


def test_a_manifest_that_lists_a_pipe_is_refused(special, tmp_path):
    table = special / "table.csv"
    table.write_text("path,label\na/00.png,a\nb/00.png,b\na/pipe.jpg,a\n")
    with pytest.raises(ImagesError, match=r"table\.csv, line 4: a/pipe\.jpg is a named pipe, no regular file"):
        tlopt.scan(table)


@pytest.mark.slow
def test_pipes_in_the_cache_are_taken_for_nothing(special, tmp_path):
    cache = tmp_path / "cache"
    tlopt.finetune(special, tmp_path / "one", model="tiny_models:cnn", epochs=1, cache_dir=cache, image_size=16)
    replaced = [file for file in cache.rglob("*") if file.suffix in (".json", ".u8", ".npz")]
    assert replaced
    for file in replaced:
        file.unlink()
        os.mkfifo(file)
    tlopt.finetune(special, tmp_path / "two", model="tiny_models:cnn", epochs=1, cache_dir=cache, image_size=16)
