"""A search whose worker does nothing: what is written in which order at its end."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from searches import Known, asked

from tlopt.errors import MissingLibraryError, OutputExistsError, SettingError, StudyError
from tlopt.images.cache import Cache
from tlopt.search import answer, outcome, searching
from tlopt.search.networks import Network
from tlopt.search.space import Space
from tlopt.search.study import folder, storage
from tlopt.search.study.leases import Leases, owner
from tlopt.search.study.storage import Storage

MADE = "work/export-0123456789abcdef/model.onnx"


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Runs a search in tmp_path/out, in which something is done while its worker works."""
    out = tmp_path / "out"
    monkeypatch.setattr(searching, "fingerprint", lambda: {"machine": "m"})

    def run(during=lambda _: None, **given):
        def worker(*, asked, noted, **_):
            def work():
                (out / MADE).parent.mkdir(parents=True, exist_ok=True)
                (out / MADE).write_text("made")
                now = Known(asked).now()
                during(lambda: noted(now))
                return now

            return SimpleNamespace(run=work)

        monkeypatch.setattr(searching, "Worker", worker)
        return searching.search(
            asked(), SimpleNamespace(places=list), {}, out, quick="", minutes=1.0, cache=Cache(),
            **{"role": "all", "study": "", "keep": "best", "force": False, **given},
        )  # fmt: skip

    return run


def test_work_is_removed_only_when_the_answer_stands(search, tmp_path, monkeypatch):
    removed = []

    def remove(place):
        assert folder.read_note(place).finished
        assert [entry.state for entry in Storage(str(place / folder.JOURNAL), None).entries()] == ["done"]
        removed.append(place)

    monkeypatch.setattr(outcome, "remove_work", remove)
    search()
    assert removed == [tmp_path / "out"]


def test_work_goes_unless_all_is_kept(search, tmp_path):
    search()
    assert not (tmp_path / "out" / "work").exists()
    # Who comes late is given the answer, and needs nothing of what led to it.
    assert search().report.title == "No answer"


def test_work_that_another_worker_needs_stays(search, tmp_path):
    study = str(tmp_path / "study")

    def join(_):
        far = Leases(storage=Storage(study, asked().identity()), who={**owner("train"), "boot": "another"})
        assert far.claim("train/a") is not None

    search(join, study=study)
    assert folder.read_note(tmp_path / "out").finished
    assert (tmp_path / "out" / MADE).exists()


def test_a_search_that_no_machine_has_measured_for_is_not_finished_by_one_that_trains(search, tmp_path):
    study = str(tmp_path / "study")
    assert "No machine that measures" in search(study=study, role="train").report.notes[0]
    assert not folder.read_note(tmp_path / "out").finished
    search(study=study, role="measure")
    assert folder.read_note(tmp_path / "out").finished


@pytest.mark.parametrize("kept", ["best", "all"])
def test_work_that_a_killed_worker_left_behind_the_answer_goes_when_the_command_is_run_again(
    search, tmp_path, monkeypatch, kept
):
    with monkeypatch.context() as patch:
        patch.setattr(outcome, "remove_work", lambda _: None)
        search(keep=kept)
    search()
    assert (tmp_path / "out" / MADE).exists() == (kept == "all")


def test_what_a_finished_search_did_not_keep_is_told(search, tmp_path, caplog):
    for keep in ("best", "best", "pareto", "all"):
        search(keep=keep)
        folder.tell_kept(tmp_path / "out", keep)
    told = [f"out is finished, and was to keep best: --keep {one} has no effect" for one in ("pareto", "all")]
    assert [message.split("/")[-1].partition(" any")[0] for message in caplog.messages] == [told[0]] * 2 + [told[1]] * 2


def test_a_study_is_of_one_folder_which_may_be_moved(search, tmp_path):
    study = str(tmp_path / "study")
    search(study=study)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match=r"is of the search in another folder, .*out: what") as caught:
        search(study=study)
    assert "Give all machines the same --out" in caught.value.hint
    assert not (tmp_path / "out").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "out")
    assert search(study=study).report.title == "No answer"


def test_an_older_search_stands_until_the_one_that_replaces_it_has_begun(search, tmp_path, monkeypatch):
    def missing(_):
        raise MissingLibraryError("Optuna is not installed.")

    search()
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(StudyError, match="cannot be made: there is no folder"):
        search(force=True, study=str(tmp_path / "none" / "study"))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "require", missing)
        with pytest.raises(MissingLibraryError):
            search(force=True)
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert search(force=True).report.title == "No answer"
    assert search(force=True, study=f"sqlite:///{tmp_path}/study.db").report.title == "No answer"


def test_a_worker_that_is_late_leaves_the_answer_alone(search, tmp_path):
    report = tmp_path / "out" / folder.REPORT

    def late(noted):
        noted()
        assert json.loads(report.read_text())["title"].endswith("so far")
        note = folder.read_note(tmp_path / "out")
        folder.write_note(tmp_path / "out", folder.Note(**{**vars(note), "finished": True}))
        report.write_text("the answer")
        noted()
        assert report.read_text() == "the answer"

    search(late)


def test_a_worker_that_is_late_while_the_answer_is_written_leaves_it_alone(search, monkeypatch):
    late, write, written = [], answer.write, []

    def meanwhile(place, report, now):
        write(place, report, now)
        [noted] = late
        noted()
        written.append(json.loads((place / folder.REPORT).read_text())["title"])

    monkeypatch.setattr(answer, "write", meanwhile)
    search(late.append)
    assert written == ["No answer"]


def test_the_answer_waits_for_a_worker_that_tells_what_was_found_so_far(search, tmp_path, monkeypatch):
    def told(*given, so_far=False, **more):
        if so_far:
            with pytest.raises(OutputExistsError), folder.telling(tmp_path / "out"):
                pass
        return report_of(*given, so_far=so_far, **more)

    report_of = answer.report_of
    monkeypatch.setattr(answer, "report_of", told)
    search(lambda noted: noted())
    with folder.telling(tmp_path / "out"):
        pass


@pytest.mark.parametrize(("study", "hint"), [("study", "Add --role train"), ("", "start anew with --force")])
def test_a_machine_that_became_another_one_is_told_what_it_may_do(search, tmp_path, monkeypatch, study, hint):
    where = str(tmp_path / study) if study else ""
    search(study=where)
    (tmp_path / "out" / folder.PAGE).unlink()
    monkeypatch.setattr(searching, "fingerprint", lambda: {"machine": "another"})
    with pytest.raises(SettingError, match="not the one that the search measures on: machine differ") as caught:
        search(study=where)
    assert hint in caught.value.hint


def test_artifacts_and_weights_are_among_what_is_read():
    networks = (
        Network(name="timm:a", artifact=Path("made")), Network(name="timm:b", weights=Path("w.safetensors")),
    )  # fmt: skip
    search = SimpleNamespace(space=Space(networks=networks))
    whole = SimpleNamespace(places=lambda: [Path("images")])
    assert searching._reads(search, whole) == [Path("images"), Path("made"), Path("w.safetensors")]


def test_of_workers_that_begin_at_once_one_makes_the_folder_and_the_other_waits(tmp_path, monkeypatch):
    out, made = tmp_path / "out", folder.Note(tlopt="1", identity={}, quick="", study="study", minutes=1.0)

    def busy(*_, **__):
        out.mkdir()
        folder.write_note(out, made)
        raise OutputExistsError("Another run is making it at this moment.")

    monkeypatch.setattr(folder, "check_place", busy)
    folder.check(out, force=False, shared=True, reads=[])
    (out / "optimize.json").unlink()
    out.rmdir()
    with pytest.raises(OutputExistsError):
        folder.check(out, force=False, shared=False, reads=[])


def test_a_file_that_somebody_puts_into_a_folder_as_it_is_withdrawn_stays(tmp_path, monkeypatch):
    note = folder.Note(tlopt="", identity={}, quick="", study="", minutes=1.0, token="t")
    for late in (True, False):
        (tmp_path / "out").mkdir(exist_ok=True)
        folder.write_note(tmp_path / "out", note)

        def read(place, late=late):
            if late:
                (place / "mine.txt").touch()
            return note

        monkeypatch.setattr(folder, "read_note", read)
        folder.withdraw(tmp_path / "out", note)
        assert (tmp_path / "out" / "mine.txt").exists() == late
        (tmp_path / "out" / "mine.txt").unlink(missing_ok=True)
    assert not (tmp_path / "out").exists()
