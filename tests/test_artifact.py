import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tlopt import publishing
from tlopt.artifact import Artifact, seal
from tlopt.card import CARD_NAME, Card, Step
from tlopt.errors import ArtifactError, OutputExistsError
from tlopt.preprocess import Preprocess
from tlopt.publishing import draft


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


def test_a_draft_leaves_nothing_behind_when_its_block_fails(tmp_path):
    with pytest.raises(RuntimeError), draft(tmp_path / "a") as scratch:  # noqa: PT012
        (scratch / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_draft_does_not_replace_without_force(tmp_path):
    folder = make(tmp_path / "a")
    with pytest.raises(OutputExistsError, match="exists already"), draft(folder):
        pytest.fail("the block must not run")
    assert Artifact.load(folder)


def test_a_draft_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file" / "a", tmp_path / "file" / "a" / "b"):
        with pytest.raises(OutputExistsError, match="is, or lies below, a file"), draft(place):
            pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_forced_draft_that_fails_keeps_the_old_artifact(tmp_path):
    folder = make(tmp_path / "a")
    with pytest.raises(RuntimeError), draft(folder, force=True):
        raise RuntimeError
    assert Artifact.load(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_forced_draft_replaces(tmp_path):
    folder = make(tmp_path / "a")
    with draft(folder, force=True) as scratch:
        (scratch / "new").write_text("x")
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


KILLED = """
import os, signal, sys
from tlopt.publishing import draft
with draft(sys.argv[1], force=True) as scratch:
    (scratch / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_artifact_and_the_next_one_cleans_up(tmp_path):
    folder = make(tmp_path / "a")
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert Artifact.load(folder)
    assert len(list(tmp_path.iterdir())) == 2
    make_again = draft(folder, force=True)
    with make_again as scratch:
        (scratch / "new").write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_scratch_folder_of_a_killed_process_nobody_waited_for_is_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "a")])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert list(tmp_path.glob(f".a.{process.pid}@*"))
    with draft(tmp_path / "a"):
        assert not list(tmp_path.glob(f".a.{process.pid}@*"))
    process.wait()


def test_the_scratch_folder_of_another_machine_is_left_alone(tmp_path):
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    other = tmp_path / f".a.{int(process.stdout)}@elsewhere.x"
    other.mkdir()
    make(tmp_path / "a")
    assert other.exists()


def test_what_a_killed_process_had_set_aside_comes_back(tmp_path):
    folder = make(tmp_path / "a")
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    aside = tmp_path / f".a.{int(process.stdout)}@{publishing._node()}.x"
    aside.mkdir()
    os.rename(folder, aside / "old")
    with pytest.raises(OutputExistsError), draft(folder):
        pytest.fail("the block must not run")
    assert Artifact.load(folder)
