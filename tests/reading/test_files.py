import os
import socket

import pytest

from tlopt.errors import TloptError
from tlopt.reading import files


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("read", [files.open_regular, files.read_bytes, files.read_text, files.expect_regular])
def test_a_pipe_is_refused_at_once(read, pipe):
    with pytest.raises(files.IrregularFileError, match=r"pipe is a named pipe, no regular file\.$"):
        read(pipe)


@pytest.mark.parametrize("read", [files.open_regular, files.read_bytes, files.read_text, files.expect_regular])
def test_devices_and_folders_are_refused_behind_links_too(read, tmp_path):
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(files.IrregularFileError, match="zero is a device, no regular file"):
        read(tmp_path / "zero")
    with pytest.raises(files.IrregularFileError, match="is a folder, no regular file"):
        read(tmp_path)


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        with pytest.raises(files.IrregularFileError, match="s is a socket"):
            files.open_regular("s")


def test_the_error_is_one_a_user_can_fix_and_one_of_the_system():
    assert issubclass(files.IrregularFileError, TloptError)
    assert issubclass(files.IrregularFileError, OSError)


def test_a_file_larger_than_its_limit_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(files.IrregularFileError, match="larger than 64 MiB"):
        files.read_text(tmp_path / "sparse")


def test_an_endless_regular_file_is_read_to_the_limit_only(tmp_path):
    # The memory map of a process is a regular file of size 0 that holds some kilobytes.
    with pytest.raises(files.IrregularFileError, match="larger than"):
        files.read_bytes("/proc/self/maps", limit=100)


def test_regular_files_are_read_and_missing_ones_stay_missing(tmp_path):
    (tmp_path / "a").write_text("ä", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert files.read_text(tmp_path / "link") == "ä"
    with files.open_regular(tmp_path / "a") as file:
        assert file.read() == "ä".encode()
    with pytest.raises(FileNotFoundError):
        files.open_regular(tmp_path / "b")


def test_no_descriptor_is_left_open_by_a_refusal(tmp_path, pipe):
    before = len(os.listdir("/proc/self/fd"))
    for path in (pipe, tmp_path):
        with pytest.raises(files.IrregularFileError):
            files.open_regular(path)
    assert len(os.listdir("/proc/self/fd")) == before
