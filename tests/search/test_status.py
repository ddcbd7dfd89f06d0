import json

import pytest

from tlopt.reports import Report
from tlopt.search.study import folder
from tlopt.search.study.leases import Leases, owner
from tlopt.search.study.status import status_of
from tlopt.search.study.storage import Storage


@pytest.fixture
def noted(tmp_path):
    """Makes a folder of a search that names a study."""

    def make(study):
        out = tmp_path / "out"
        out.mkdir()
        (out / "optimize.json").write_text(
            folder.Note(tlopt="1", identity={"tlopt": "1"}, quick="", study=study, minutes=1.0).text()
        )
        return out

    return make


def test_status_opens_no_study_elsewhere_that_the_folder_names(noted, tmp_path):
    where = f"sqlite:///{tmp_path}/study.db"
    out = noted(where)
    Storage(where, {"tlopt": "1"})
    (tmp_path / "study.db").rename(tmp_path / "moved.db")
    report = status_of(out).report
    assert not (tmp_path / "study.db").exists()
    assert report.notes == (f"Its study is at {where}. Name it with --study to see what is running.",)
    storage = Storage(f"sqlite:///{tmp_path}/moved.db", {"tlopt": "1"})
    assert Leases(storage=storage, who=owner("all")).claim("train/a", "Training") is not None
    [row] = status_of(out, f"sqlite:///{tmp_path}/moved.db").report.rows
    assert row["running"] == "Training"


def test_status_leaves_the_study_in_the_folder_as_it_is(noted):
    out = noted(folder.JOURNAL)
    assert status_of(out).report.notes == ("Nothing is running. The same command goes on with it.",)
    Storage(str(out / folder.JOURNAL), {"tlopt": "1"})
    with (out / folder.JOURNAL).open("a") as file:
        file.write('{"op_code":4,"study')
    before = (out / folder.JOURNAL).read_text()
    assert status_of(out).report.rows == ()
    assert (out / folder.JOURNAL).read_text() == before
    assert json.loads((out / "optimize.json").read_text())["study"] == folder.JOURNAL


def test_status_follows_no_link_in_the_folder(noted, tmp_path):
    out = noted(folder.JOURNAL)
    (tmp_path / "notes.txt").write_text("mine")
    (out / folder.JOURNAL).symlink_to(tmp_path / "notes.txt")
    assert "steps done:" not in status_of(out).report.title


def test_a_program_sees_the_best_so_far_too(noted):
    out = noted(folder.JOURNAL)
    so_far = Report(title="Best so far: a", rows=({"network": "a"},))
    (out / folder.REPORT).write_text(so_far.to_json())
    shown = json.loads(status_of(out).report.to_json())
    assert shown["details"]["report"] == so_far.to_dict()
