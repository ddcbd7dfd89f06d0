import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tlopt.process import temporary


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The folder of temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    temporary.sweep.cache_clear()
    yield tmp_path / "temporary"
    temporary.sweep.cache_clear()


def left(place):
    """Make what looks like a folder of a process that was killed."""
    folder = place / "tlopt-serve-0123456789abcdef"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "file").write_text("x")
    return folder


def test_a_temporary_folder_goes_with_its_block_though_folders_in_it_are_protected(place):
    with temporary.folder("serve") as made:
        assert made.stat().st_mode & 0o777 == 0o700
        (made / "inner").mkdir()
        (made / "inner" / "file").write_text("x")
        (made / "inner").chmod(0o500)
    assert not list(place.iterdir())


KILLED = """
import os, signal
from tlopt.process import temporary
with temporary.folder("serve") as made:
    (made / "file").write_text("x")
    print(made, temporary.shared_memory(made), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_a_killed_process_left_goes_with_its_shared_memory_when_the_next_needs_a_folder(place, monkeypatch):
    memory = place.parent / "memory"
    memory.mkdir()
    monkeypatch.setattr(temporary, "SHARED_MEMORY", memory)
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    made, prefix = done.stdout.split()
    assert done.returncode == -signal.SIGKILL
    assert Path(made).parent == place
    for name in (f"{prefix}1", "tlopt_another_1"):
        (memory / name).touch()
    with temporary.folder():
        assert not Path(made).exists()
    assert [path.name for path in memory.iterdir()] == ["tlopt_another_1"]


def test_a_folder_stays_while_its_process_or_a_child_with_its_lock_lives(place):
    made, lock = temporary._made("serve")
    inherited = os.dup(lock)
    for handle in (lock, inherited):
        temporary.sweep.cache_clear()
        temporary.sweep()
        assert made.exists()
        os.close(handle)
    temporary.sweep.cache_clear()
    temporary.sweep()
    assert not list(place.iterdir())


def test_nothing_else_is_removed(place, tmp_path):
    mine = left(tmp_path / "mine")
    for name in ("tlopt-serve-abcd1234", "tlopt-notes", "x-tlopt-serve-0123456789abcdef"):
        (place / name).mkdir()
    (place / "tlopt-serve-0000000000000000").symlink_to(mine)
    (place / "tlopt-serve-1111111111111111").write_text("x")
    os.mkfifo(place / "tlopt-serve-2222222222222222")
    before = sorted(place.iterdir())
    temporary.sweep()
    assert sorted(place.iterdir()) == before
    assert (mine / "models" / "file").exists()


def test_the_folders_of_other_users_stay(place, monkeypatch):
    folder = left(place)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    temporary.sweep()
    assert folder.exists()


def test_where_the_file_system_knows_no_locks_nothing_is_swept(place, monkeypatch):
    def no_locks(handle, how):
        raise OSError(38, "Function not implemented")

    folder = left(place)
    monkeypatch.setattr(temporary.fcntl, "flock", no_locks)
    with temporary.folder() as made:
        assert made.exists()
    assert folder.exists()
    assert not made.exists()


def test_a_folder_that_is_swept_away_before_it_is_locked_is_made_anew(place, monkeypatch):
    opened = temporary._opened
    swept = []

    def late(path):
        if not swept:
            path.rmdir()
            swept.append(path)
        return opened(path)

    monkeypatch.setattr(temporary, "_opened", late)
    with temporary.folder() as made:
        assert made.exists()
        assert made not in swept
