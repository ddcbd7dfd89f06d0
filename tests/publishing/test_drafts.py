import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from contents import fill

from tlopt.errors import OutputError, OutputExistsError
from tlopt.publishing import check_place, claims, draft, drafts, tidy

CARD = json.dumps({"schema": 1, "lineage": [], "files": {"model.onnx": "0"}})


def make(out, content="old", **options):
    """Make what looks like an artifact."""
    with draft(out, **options) as made:
        (made / "artifact.json").write_text(CARD)
        (made / "model.onnx").write_text(content)
    return out


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_draft_leaves_nothing_behind_when_its_block_fails(tmp_path):
    with pytest.raises(RuntimeError), draft(tmp_path / "a") as made:  # noqa: PT012
        (made / "half").write_text("x")
        raise RuntimeError
    assert names(tmp_path) == []


def test_a_draft_does_not_replace_without_force(tmp_path):
    make(tmp_path / "a")
    with pytest.raises(OutputExistsError, match="exists already"), draft(tmp_path / "a"):
        pytest.fail("the block must not run")
    assert (tmp_path / "a" / "model.onnx").read_text() == "old"


def test_an_empty_folder_becomes_the_output(tmp_path):
    (tmp_path / "a").mkdir()
    make(tmp_path / "a")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["a[1]", "with spaces", "ünï", "-dash", ".dot", "a*?", "tail.", "new\nline"])
def test_any_name_is_made_swept_and_replaced(tmp_path, name):
    left = tmp_path / f".{name}.draft-00000000"
    left.mkdir()
    other = tmp_path / ".a1.draft-00000000"
    other.mkdir()
    make(tmp_path / name)
    assert not left.exists()
    assert other.exists()
    make(tmp_path / name, "new", force=True)
    assert sorted(os.listdir(tmp_path)) == sorted([name, other.name])


def test_a_forced_draft_that_fails_keeps_the_old_output(tmp_path):
    make(tmp_path / "a")
    with pytest.raises(RuntimeError), draft(tmp_path / "a", force=True):
        raise RuntimeError
    assert (tmp_path / "a" / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_forced_draft_replaces(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(drafts, "_exchange", lambda one, other: False)  # noqa: ARG005
    make(tmp_path / "a")
    make(tmp_path / "a", "new", force=True)
    assert (tmp_path / "a" / "model.onnx").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_what_appears_meanwhile_is_left_as_it_is(tmp_path):
    for force in (False, True):
        out = tmp_path / f"a{force}"
        refused = pytest.raises(OutputExistsError, match=r"has appeared|exists already|not made by")
        with refused, draft(out, force=force) as made:
            (made / "new").write_text("x")
            fill(out, {"mine.txt": "kept"})
        assert (out / "mine.txt").read_text() == "kept"
    with pytest.raises(OutputExistsError), draft(tmp_path / "b"):
        (tmp_path / "b").write_text("a file")
    assert names(tmp_path) == ["aFalse", "aTrue", "b"]


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("mine", ["mine.txt", "mine/"])
def test_what_is_put_into_the_old_output_at_the_last_moment_is_not_lost(tmp_path, monkeypatch, exchanges, mine):
    out, exchange = make(tmp_path / "a"), drafts._exchange

    def put():
        if mine.endswith("/"):
            (out / mine).mkdir(exist_ok=True)
        else:
            (out / mine).touch()

    def late_exchange(one, other):
        put()
        return exchange(one, other) if exchanges else False

    monkeypatch.setattr(drafts, "_exchange", late_exchange)
    with pytest.raises(OutputExistsError, match=f"was left as it is: {mine} was put there"):
        make(out, "new", force=True)
    assert (out / mine).exists()
    assert (out / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_the_second_of_two_runs_is_refused_before_its_work(tmp_path):
    for force in (False, True):
        with draft(tmp_path / "a") as made:
            (made / "first").write_text("x")
            refused = pytest.raises(OutputExistsError, match=rf"Another run \(process {os.getpid()} on")
            with refused, draft(tmp_path / "a", force=force):
                pytest.fail("the block must not run")
        assert names(tmp_path / "a") == ["first"]
        assert names(tmp_path) == ["a"]
        (tmp_path / "a" / "first").unlink()


def test_a_process_that_follows_another_under_torchrun_publishes_nothing(tmp_path, monkeypatch):
    with draft(tmp_path / "a") as made:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with draft(tmp_path / "a", shared=True) as other:
            assert other.checkpoints == made.checkpoints
            assert other.folder.parent != tmp_path
        monkeypatch.delenv("RANK")
    assert names(tmp_path) == ["a"]


def test_work_that_is_not_shared_is_refused_in_a_process_that_follows(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OutputError, match="RANK=1 of WORLD_SIZE=2"), draft(tmp_path / "a"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("rank", "world"), [("none", "2"), ("1", ""), ("0", "2"), ("1", "1"), ("-1", "2")])
def test_other_values_of_these_variables_mean_nothing(rank, world, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with draft(tmp_path / "a") as made:
        (made / "x").touch()
    assert names(tmp_path) == ["a"]


def test_where_the_file_system_knows_no_locks_nothing_is_swept_or_lost(tmp_path, monkeypatch):
    def no_locks(handle, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(claims.fcntl, "flock", no_locks)
    left = tmp_path / ".a.draft-00000000"
    left.mkdir()
    make(tmp_path / "a")
    assert left.exists()
    with pytest.raises(OutputExistsError):
        make(tmp_path / "a")


KILLED = """
import os, signal, sys
from tlopt.publishing import draft
with draft(sys.argv[1], force=True) as made:
    (made / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_output_and_the_next_one_cleans_up(tmp_path):
    make(tmp_path / "a")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "a")])
    # Nobody has asked for its exit status yet: that it is gone must show all the same.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (tmp_path / "a" / "model.onnx").read_text() == "old"
    assert len(names(tmp_path)) == 3
    make(tmp_path / "a", "new", force=True)
    assert names(tmp_path) == ["a"]
    assert process.wait() == -signal.SIGKILL


def dies_at(step, monkeypatch):
    """Have the process die before its given step on the file system, as SIGKILL would have it."""
    left = step

    def counted(function):
        def call(*args, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return call

    for where, name in ((os, "rename"), (os, "mkdir"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "open")):
        monkeypatch.setattr(where, name, counted(getattr(where, name)))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    monkeypatch.setattr(drafts, "_exchange", counted(drafts._exchange))


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.slow
def test_a_kill_at_any_step_leaves_the_old_or_the_new_or_nothing(tmp_path, monkeypatch, before, exchanges):
    if not exchanges:
        monkeypatch.setattr(drafts, "_exchange", lambda one, other: False)  # noqa: ARG005
    for step in range(200):
        out = tmp_path / f"{step}" / "a"
        out.parent.mkdir()
        if before:
            make(out)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException), monkeypatch.context() as patch:
                dies_at(step, patch)
                make(out, "new", force=True)
                os._exit(0)
            os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        if out.exists():
            assert names(out) == ["artifact.json", "model.onnx"]
            assert (out / "model.onnx").read_text() in (("old", "new") if before else ("new",))
        else:
            assert not (before and exchanges)
        make(out, "again", force=True)
        assert (out / "model.onnx").read_text() == "again"
        assert names(out.parent) == ["a"]
        if status == 0:
            return
    pytest.fail("it never ended")


def test_what_a_run_killed_at_its_very_end_left_is_tidied(tmp_path):
    make(tmp_path / "a")
    for left in (".a.lock", ".a.draft-00000000/old", ".a.checkpoint/checkpoint.safetensors"):
        fill(tmp_path, {left: ""})
    tidy(tmp_path / "a")
    assert names(tmp_path) == ["a"]
    with draft(tmp_path / "b") as made:
        tidy(tmp_path / "b")
        assert made.folder.exists()


def test_what_only_goes_by_the_name_of_a_lock_or_a_checkpoint_stays(tmp_path):
    fill(tmp_path, {".a.checkpoint/mine.txt": "mine", ".a.checkpoint/checkpoint.safetensors": "", ".b.lock": "mine"})
    make(tmp_path / "a")
    assert names(tmp_path / ".a.checkpoint") == ["mine.txt"]
    os.mkfifo(tmp_path / ".c.lock")
    (tmp_path / ".d.lock").mkdir()
    (tmp_path / ".e.lock").symlink_to("nowhere")
    (tmp_path / "b").mkdir()
    before = names(tmp_path)
    for name in "bcde":
        for use in (check_place, make):
            with pytest.raises(OutputExistsError, match=rf"\.{name}\.lock is in the way"):
                use(tmp_path / name)
    tidy(tmp_path / "b")
    assert names(tmp_path) == before
    assert (tmp_path / ".b.lock").read_text() == "mine"


def test_what_no_state_can_be_written_to_is_told_before_the_work(tmp_path):
    fill(tmp_path, {".a.checkpoint": "mine", ".b.checkpoint/other": ""})
    os.mkfifo(tmp_path / ".b.checkpoint" / "checkpoint.safetensors")
    (tmp_path / ".c.checkpoint").symlink_to("nowhere")
    for name in "abc":
        with pytest.raises(OutputExistsError, match=rf"\.{name}\.checkpoint\S* is in the way"):
            check_place(tmp_path / name)


def test_what_a_killed_process_had_set_aside_comes_back(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / ".a.old-00000000")
    with pytest.raises(OutputExistsError), draft(tmp_path / "a"):
        pytest.fail("the block must not run")
    assert (tmp_path / "a" / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_the_umask_says_who_may_read(tmp_path):
    before = os.umask(0o077)
    try:
        make(tmp_path / "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "model.onnx").stat().st_mode & 0o777 == 0o600
    make(tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o777 & ~before


def test_a_full_disk_is_told_before_the_work(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="cannot be made: No space left on device"), draft(tmp_path / "a"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", [None, "source.png", "draft"])
def test_a_disk_that_is_full_is_told_by_the_name_of_the_output(tmp_path, name):
    told = r"out cannot be made: No space left on device\."
    with pytest.raises(OutputError, match=told), draft(tmp_path / "out") as made:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(made / "x") if name == "draft" else name)
    with pytest.raises(PermissionError, match="source"), draft(tmp_path / "out"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "source")
    assert not list(tmp_path.iterdir())


def test_what_is_replaced_goes_though_its_folders_are_protected(tmp_path):
    make(tmp_path / "out")
    (tmp_path / "outside").mkdir(mode=0o555)
    inner = fill(tmp_path / "out" / "model", {"weights": ""})
    (tmp_path / "out" / "artifact.json").write_text(CARD.replace("model.onnx", "model/weights"))
    (tmp_path / "out" / "model.onnx").unlink()
    for folder in (inner, tmp_path / "out"):
        folder.chmod(0o555)
    make(tmp_path / "out", "new", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "outside"]
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o555


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "I/O error")])
def test_what_stops_the_second_of_two_renames_leaves_the_old_output(tmp_path, monkeypatch, error):
    make(tmp_path / "out")
    rename = Path.rename

    def stopped(path, target):
        if ".draft-" in path.name:
            raise error
        return rename(path, target)

    monkeypatch.setattr(drafts, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises((KeyboardInterrupt, OutputError)):
        make(tmp_path / "out", "new", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.onnx").read_text() == "old"


def test_the_mode_of_a_folder_stays(tmp_path):
    (tmp_path / "out").mkdir(mode=0o700)
    for force in (False, True):
        make(tmp_path / "out", force=force)
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
