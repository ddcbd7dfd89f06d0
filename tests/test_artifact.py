import errno
import json
import os
from pathlib import Path

import pytest

from tlopt.artifact import Artifact, seal
from tlopt.cards.card import CARD_NAME, Card, Step
from tlopt.errors import ArtifactError
from tlopt.preprocess import Preprocess
from tlopt.publishing import draft
from tlopt.reading import files


def make(folder: Path) -> Path:
    card = Card(
        kind="torch",
        model="timm:resnet18",
        precision="fp32",
        classes=("cat", "dog"),
        preprocess=Preprocess(size=32),
        lineage=(Step(stage="import", settings={"a": 1}, source="", seconds=0.1, versions={}, device="cpu"),),
    )
    with draft(folder) as scratch:
        (scratch / "model.safetensors").write_bytes(b"weights")
        seal(scratch, card)
    return folder


def test_a_card_survives_being_written_and_read(tmp_path):
    artifact = Artifact.load(make(tmp_path / "a"))
    assert artifact.card.classes == ("cat", "dog")
    assert Card.from_json(artifact.card.to_json()) == artifact.card
    assert artifact.payload(".safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("names", [("model.safetensors",), ("model.onnx", "model.onnx.data"), ("model.engine",)])
def test_the_size_is_that_of_what_runs(names, tmp_path):
    folder = make(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    beside = ("confusion_matrix.svg", "metrics.jsonl", "layers.json", "explanation.txt", "tensorboard/events.1")
    (folder / "tensorboard").mkdir()
    for name in (*names, *beside):
        (folder / name).write_bytes(bytes(1000))
    card = Card.from_json((folder / CARD_NAME).read_text())
    (folder / CARD_NAME).unlink()
    assert Artifact(path=folder, card=seal(folder, card)).size_mb == pytest.approx(len(names) * 1e-3)


def test_load_rejects_a_changed_payload(tmp_path):
    folder = make(tmp_path / "a")
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactError, match=r"model\.safetensors was changed"):
        Artifact.load(folder)


def test_load_rejects_a_missing_payload(tmp_path):
    folder = make(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model\.safetensors is missing"):
        Artifact.load(folder)


@pytest.mark.parametrize("target", ["model.safetensors", "other"])
def test_load_rejects_a_payload_that_is_a_loop_of_links(target, tmp_path):
    payload = make(tmp_path / "a") / "model.safetensors"
    payload.unlink()
    payload.symlink_to(target)
    (tmp_path / "a" / "other").symlink_to("model.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.safetensors cannot be read: Too many levels"):
        Artifact.load(tmp_path / "a")


def test_load_says_when_there_is_nothing(tmp_path):
    with pytest.raises(ArtifactError, match="There is no artifact at"):
        Artifact.load(tmp_path / "nowhere")


def test_load_says_when_a_folder_is_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match="is not an artifact"):
        Artifact.load(tmp_path)


def test_load_names_the_path_of_a_damaged_card(tmp_path):
    folder = make(tmp_path / "a")
    for text in ("", "[]", "{}", '{"schema": 1}', '{"schema": "x"}', "\x00"):
        (folder / CARD_NAME).write_text(text)
        with pytest.raises(ArtifactError, match=r"artifact\.json: The card is damaged"):
            Artifact.load(folder)


def test_load_refuses_the_card_of_a_newer_version(tmp_path):
    folder = make(tmp_path / "a")
    card = json.loads((folder / CARD_NAME).read_text())
    (folder / CARD_NAME).write_text(json.dumps({**card, "schema": 99}))
    with pytest.raises(ArtifactError, match="schema 99") as caught:
        Artifact.load(folder)
    assert "upgrade" in caught.value.hint


def test_load_refuses_a_payload_outside_of_the_folder(tmp_path):
    folder = make(tmp_path / "a")
    (tmp_path / "secret").write_text("x")
    card = json.loads((folder / CARD_NAME).read_text())
    (folder / CARD_NAME).write_text(json.dumps({**card, "files": {"../secret": "0" * 64}}))
    with pytest.raises(ArtifactError, match="outside"):
        Artifact.load(folder)


def test_the_digest_is_that_of_what_is_computed(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    assert Artifact.load(first).digest == Artifact.load(second).digest


def test_expect_names_the_stage_that_makes_the_wanted_kind(tmp_path):
    artifact = Artifact.load(make(tmp_path / "a"))
    with pytest.raises(ArtifactError, match="of kind torch; this needs onnx") as caught:
        artifact.expect("onnx")
    assert "tlopt export" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "what", "hint"),
    [
        ("optimize.json", '{"tlopt": "0", "identity": {}, "study": ""}', "a search", "/best"),
        ("deploy.json", '{"what": "a deployment of tlopt", "files": {}}', "a deployment", "it was made of"),
        ("report.json", '{"title": "", "rows": [], "conditions": {}}', "a report", "artifacts that it is about"),
    ],
)
def test_load_says_what_tlopt_made_instead_of_an_artifact(name, content, what, hint, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ArtifactError, match=f"is {what}, not an artifact") as caught:
        Artifact.load(tmp_path)
    assert hint in caught.value.hint


@pytest.mark.parametrize("place", ["a.jpg", "cats/a.PNG", "train/cats/a.jpg"])
def test_load_says_how_images_become_an_artifact(place, tmp_path):
    photo = tmp_path / "photos" / place
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"")
    with pytest.raises(ArtifactError, match="is not an artifact") as caught:
        Artifact.load(tmp_path / "photos")
    assert f"tlopt finetune {tmp_path / 'photos'} -o OUT" in caught.value.hint


def test_load_takes_other_files_for_no_images(tmp_path):
    (tmp_path / "notes" / "more").mkdir(parents=True)
    (tmp_path / "notes" / "a.txt").write_text("")
    with pytest.raises(ArtifactError, match="is not an artifact") as caught:
        Artifact.load(tmp_path / "notes")
    assert "images" not in caught.value.hint


def test_load_says_how_a_network_of_another_program_becomes_an_artifact(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="is not an artifact") as caught:
        Artifact.load(tmp_path / "net.onnx")
    assert "tlopt import" in caught.value.hint


@pytest.mark.parametrize("name", ["artifact.json", "model.safetensors"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_nobody_is_told_to_make_an_artifact_again_that_may_not_be_read(tmp_path, monkeypatch, name, number):
    folder = make(tmp_path / "a")
    opened = files.open_descriptor

    def refused(path, **options):
        if Path(path).name == name:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, **options)

    monkeypatch.setattr(files, "open_descriptor", refused)
    with pytest.raises(ArtifactError, match=rf"{name} cannot be read: {os.strerror(number)}\.") as caught:
        Artifact.load(folder)
    assert caught.value.hint == "It may be whole. See to its permissions and to its disk."
