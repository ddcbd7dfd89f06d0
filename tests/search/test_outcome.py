import contextlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tlopt.errors import OutputExistsError, StudyError
from tlopt.publishing import check_place, claims
from tlopt.publishing.claims import claim, lock_file
from tlopt.reports import Report
from tlopt.search import outcome


@pytest.fixture
def made(tmp_path):
    (tmp_path / "made").mkdir()
    return SimpleNamespace(path=tmp_path / "made", card=None)


@pytest.fixture
def copied(monkeypatch):
    """What was copied, by a copy that only locks."""
    found = []

    def copy(artifact, place):
        with claim(lock_file(place), place):
            found.append(artifact.path)

    monkeypatch.setattr(outcome, "copy_artifact", copy)
    return found


def test_the_answer_waits_for_a_worker_that_copies_another_one(tmp_path, made, copied, monkeypatch):
    with contextlib.ExitStack() as other:
        other.enter_context(claim(lock_file(tmp_path / "best"), tmp_path / "best"))
        outcome.publish_best(tmp_path, made)
        assert copied == []
        monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=lambda _: other.close(), monotonic=lambda: 0.0))
        outcome.publish_best(tmp_path, made, final=True)
    assert copied == [made.path]


def test_what_lies_in_the_place_of_the_answer_is_an_error(tmp_path, made):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "mine.txt").write_text("kept")
    outcome.publish_best(tmp_path, made)  # one so far may wait
    with pytest.raises(OutputExistsError, match="best"):
        outcome.publish_best(tmp_path, made, final=True)
    assert (tmp_path / "best" / "mine.txt").read_text() == "kept"


def test_names_of_kept_artifacts_differ_and_are_short(tmp_path):
    label = "é" * 300
    names = {outcome.file_name(label, key) for key in ("0123456789", "9876543210")}
    assert len(names) == 2
    for name in names:
        Path(tmp_path / name).mkdir()
        assert name.isascii()
        assert len(name) < 100


@pytest.mark.parametrize(
    ("remove", "artifact"),
    [(outcome.remove_work, "work/finetune-0123456789abcdef"), (outcome.withdraw_best, "best")],
)
@pytest.mark.parametrize("mine", [True, False])
def test_of_what_is_removed_the_users_empty_folders_stay(tmp_path, remove, artifact, mine):
    (tmp_path / "optimize.json").write_text('{"tlopt": "0", "identity": {}, "study": ""}')
    folder = tmp_path / artifact
    folder.mkdir(parents=True)
    (folder / "model.onnx").touch()
    (folder / "artifact.json").write_text(json.dumps({"schema": 1, "lineage": [], "files": {"model.onnx": "0"}}))
    if mine:
        (folder / "mine").mkdir()
    remove(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "optimize.json"]
    assert (folder / "mine").exists() == mine
    assert folder.exists() == mine


def test_networks_of_the_user_stay_where_the_work_goes(tmp_path):
    made = ["work/export-0123456789abcdef/model.onnx", "work/.export-0123456789abcdef.draft-01234567/model.onnx"]
    mine = ["work/mine/model.onnx", "work/model.onnx", "work/export-0123456789abcdef/mine/model.onnx"]
    for name in (*made, *mine):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "optimize.json").write_text('{"tlopt": "0", "identity": {}, "study": ""}')
    outcome.remove_work(tmp_path)
    assert [name for name in (*made, *mine) if (tmp_path / name).exists()] == mine


def test_nothing_is_removed_that_lies_elsewhere_though_a_card_names_it(tmp_path):
    mine = [tmp_path / "mine", tmp_path / "search" / "mine"]
    (tmp_path / "search" / "best").mkdir(parents=True)
    for file in mine:
        file.touch()
    named = {"model.onnx": "0", str(mine[0]): "0", "../mine": "0", "x/../../mine": "0", "..": "0"}
    card = json.dumps({"schema": 1, "lineage": [], "files": named})
    (tmp_path / "search" / "best" / "artifact.json").write_text(card)
    outcome.withdraw_best(tmp_path / "search")
    assert all(file.exists() for file in mine)
    assert not (tmp_path / "search" / "best").exists()


def test_a_finished_search_whose_answer_or_report_is_gone_or_damaged_is_no_answer(tuned, tmp_path):
    shutil.copytree(tuned.path, tmp_path / "best")
    report = Report(title="Best", rows=())
    (tmp_path / "report.json").write_text(report.to_json())
    assert outcome.finished(tmp_path).report == report
    with (tmp_path / "best" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(StudyError, match=r"its answer cannot be used any more\. .*model\.safetensors"):
        outcome.finished(tmp_path)
    shutil.rmtree(tmp_path / "best")
    with pytest.raises(StudyError, match=r"any more\. There is no artifact at .*best\."):
        outcome.finished(tmp_path)
    none = replace(report, breaches=("Nothing keeps to the budget.",))
    (tmp_path / "report.json").write_text(none.to_json())
    assert outcome.finished(tmp_path).report == none
    (tmp_path / "best").mkdir()
    (tmp_path / "report.json").unlink()
    with pytest.raises(StudyError, match=r"report\.json is missing\.") as caught:
        outcome.finished(tmp_path)
    assert caught.value.hint == f"The answer is in {tmp_path / 'best'}."


def test_each_folder_of_the_work_is_known_as_a_searchs_own_while_it_is_empty(tmp_path):
    code = "".join(file.read_text() for file in Path(outcome.__file__).parent.rglob("*.py"))
    names = set(re.findall(r'work / "(\w+)"', code))
    assert {"graphs", "timings"} <= names
    (tmp_path / "optimize.json").write_text('{"tlopt": "0", "identity": {}, "study": ""}')
    for name in names:
        (tmp_path / "work" / name).mkdir(parents=True)
    assert check_place(tmp_path, force=True, makes="search") == tmp_path
