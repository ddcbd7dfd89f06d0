import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from contents import OURS, fill

from tlopt.errors import OutputError, OutputExistsError, TloptError
from tlopt.publishing import PAGE, PICTURE, Kind, check_file, draft, write_whole, writing
from tlopt.reading.files import IrregularFileError

TABLE = Kind(what="a table of tlopt bench", begins=("artifact,",))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    write_whole(tmp_path / "deep" / "a.csv", "old")
    write_whole(tmp_path / "deep" / "a.csv", "nëw")
    write_whole(tmp_path / "deep" / "b", b"\x00")
    assert (tmp_path / "deep" / "a.csv").read_text(encoding="utf-8") == "nëw"
    assert names(tmp_path / "deep") == ["a.csv", "b"]


def test_a_file_name_in_another_encoding_keeps_its_bytes(tmp_path):
    write_whole(tmp_path / "a", os.fsdecode(b"x\xff"))
    assert (tmp_path / "a").read_bytes() == b"x\xff"


def test_what_fails_leaves_the_old_file(tmp_path):
    write_whole(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), writing(tmp_path / "a") as scratch:  # noqa: PT012
        scratch.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from tlopt.publishing import writing
with writing(sys.argv[1]) as scratch:
    scratch.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path):
    write_whole(tmp_path / "a[1]", "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a[1]")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a[1]").read_text() == "old"
    assert len(names(tmp_path)) == 2
    with writing(tmp_path / "a[1]") as scratch:  # of a process that lives nothing is swept
        write_whole(tmp_path / "a[1]", "between")
        scratch.write_text("new")
    assert (tmp_path / "a[1]").read_text() == "new"
    assert names(tmp_path) == ["a[1]"]


def test_a_link_is_followed_and_the_mode_is_kept(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o600


def test_a_new_file_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "through", special=True)
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


def test_a_pipe_in_the_place_of_a_file_of_our_own_lets_nobody_wait(tmp_path):
    os.mkfifo(tmp_path / "state")
    with pytest.raises(IrregularFileError, match="state is a named pipe"):
        write_whole(tmp_path / "state", "x")
    assert names(tmp_path) == ["state"]


def test_a_protected_file_is_left_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("mine")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "mine"


def test_an_output_file_never_replaces_what_is_read(tmp_path):
    fill(tmp_path, {"table.csv": "", "photos/a/1.jpg": "", "photos/last.csv": ""})
    os.link(tmp_path / "table.csv", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("table.csv")
    for name in ("table.csv", "hard", "soft"):
        with pytest.raises(OutputExistsError, match="is what this command reads"):
            check_file(tmp_path / name, reads=[tmp_path / "table.csv"], makes=TABLE)
    with pytest.raises(OutputExistsError, match="which this command reads"):
        check_file(tmp_path / "photos" / "a" / "1.jpg", reads=[tmp_path / "photos"], makes=TABLE)
    check_file(tmp_path / "photos" / "last.csv", reads=[tmp_path / "photos"], makes=TABLE)
    check_file(tmp_path / "photos" / "new.csv", reads=[tmp_path / "photos"], makes=TABLE)
    with pytest.raises(OutputExistsError, match="exists already"):
        check_file(tmp_path / "table.csv", force=False, makes=TABLE)


def test_an_output_file_never_replaces_a_part_of_an_artifact_or_a_set(tmp_path):
    fill(tmp_path / "artifact", OURS["artifact"])
    fill(tmp_path / "set", OURS["set"])
    for name in ("artifact/artifact.json", "artifact/tensorboard/events", "set/manifest.csv", "set/a/1.jpg"):
        with pytest.raises(OutputExistsError, match=r"belongs to an? (artifact|set of images)"):
            check_file(tmp_path / name, makes=TABLE)


@pytest.mark.parametrize("makes", [TABLE, PAGE, PICTURE])
@pytest.mark.parametrize("force", [True, False])
def test_an_output_file_never_replaces_what_no_command_writes(tmp_path, makes, force):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    (tmp_path / "latin.csv").write_bytes("Größe\n".encode("latin-1"))
    mine = {
        "thesis.tex": "\\documentclass{article}",
        "labels.csv": "path,label\n1.jpg,a\n",
        "quoted.csv": "my words\nartifact,precision\n",
        "page.html": "<!DOCTYPE html>\n<title>Mine</title>",
        "drawing.svg": '<?xml version="1.0"?>\n<svg/>',
    }
    fill(tmp_path, mine)
    for name in (*mine, "photo.jpg", "latin.csv"):
        with pytest.raises(OutputExistsError, match=f"{name} exists already, and is not {makes.what}") as raised:
            check_file(tmp_path / name, makes=makes, force=force)
        assert raised.value.exit_code == 2
        assert raised.value.hint == "Name another file, or remove this one first."


def test_an_output_file_replaces_what_such_a_command_wrote_and_what_is_empty(tmp_path):
    fill(tmp_path, {"empty.csv": "", "no rows.csv": "\n", "rows.csv": "artifact,precision\n"})
    for name in ("empty.csv", "no rows.csv", "rows.csv"):
        check_file(tmp_path / name, makes=TABLE)
    with pytest.raises(OutputExistsError, match=r"rows\.csv exists already\."):
        check_file(tmp_path / "rows.csv", makes=TABLE, force=False)


def test_a_link_that_leads_nowhere_is_followed(tmp_path):
    (tmp_path / "link.csv").symlink_to("rows.csv")
    check_file(tmp_path / "link.csv", makes=TABLE)
    write_whole(tmp_path / "link.csv", "new", special=True)
    assert (tmp_path / "rows.csv").read_text() == "new"


def test_a_socket_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("here")
        with pytest.raises(OutputExistsError, match="here is a socket, no regular file"):
            check_file("here", makes=TABLE)
        with pytest.raises(IrregularFileError, match="here is a socket"):
            write_whole("here", "", special=True)


def test_a_disk_is_never_written_over(tmp_path, monkeypatch):
    (tmp_path / "sda").write_text("all files")
    found = os.stat_result((stat.S_IFBLK | 0o660, *(tmp_path / "sda").stat()[1:]))
    monkeypatch.setattr(Path, "stat", lambda *_, **__: found)
    with pytest.raises(OutputExistsError, match="sda is a device"):
        check_file(tmp_path / "sda", makes=TABLE)
    with pytest.raises(IrregularFileError, match="sda is a device"):
        write_whole(tmp_path / "sda", "", special=True)
    monkeypatch.undo()
    assert (tmp_path / "sda").read_text() == "all files"


def test_whoever_had_a_file_or_a_folder_has_the_new_one_too(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(os, "fchown", lambda _, *owner: given.append(owner))
    monkeypatch.setattr(os, "chown", lambda _, *owner: given.append(owner))
    write_whole(tmp_path / "rows.csv", "new")
    assert given == []
    write_whole(tmp_path / "rows.csv", "newer")
    (tmp_path / "out").mkdir()
    with draft(tmp_path / "out"):
        pass
    assert given == [(os.getuid(), (tmp_path / name).stat().st_gid) for name in ("rows.csv", "out")]


def test_an_output_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    fill(tmp_path, {"file": "", "loop": ""})
    (tmp_path / "loop").unlink()
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in (
        ("file/rows.csv", "Not a directory"),
        ("file/deep/rows.csv", "Not a directory"),
        ("r" * 250, "File name too long"),
        ("r" * 300, "File name too long"),
        ("loop/rows.csv", "symbolic links"),
    ):
        with pytest.raises(TloptError, match=reason) as raised:
            check_file(tmp_path / name, makes=TABLE)
        assert str(tmp_path / name) in raised.value.message
    check_file(tmp_path / "missing" / "deep" / "rows.csv", makes=TABLE)
    check_file(tmp_path / "rows.csv", makes=TABLE)
    monkeypatch.setattr(os, "access", lambda *_: False)
    for name, reason in (("missing/rows.csv", "may not write into"), ("file", "Permission denied")):
        with pytest.raises(OutputError, match=reason):
            check_file(tmp_path / name, makes=TABLE)
    assert names(tmp_path) == ["file", "loop"]


def test_a_read_only_folder_is_told_by_the_name_of_the_file(tmp_path, monkeypatch):
    def refused(path, *_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(OutputError, match=r"rows\.csv cannot be made: Read-only file system\.") as raised:
        check_file(tmp_path / "rows.csv", makes=TABLE)
    assert ".part-" not in str(raised.value)
    with pytest.raises(OSError, match=r"rows\.csv'$") as failed:
        write_whole(tmp_path / "rows.csv", "")
    assert ".part-" not in str(failed.value)


def test_a_disk_that_is_full_is_told_by_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: .*rows\.csv'$"), writing(tmp_path / "rows.csv"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_a_link_to_the_pipe_of_a_process_is_written_to(tmp_path):
    reader, writer = os.pipe()
    link = tmp_path / "stdout"
    link.symlink_to(f"/proc/self/fd/{writer}")
    check_file(link, makes=TABLE)
    write_whole(link, "through", special=True)
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    os.close(writer)
