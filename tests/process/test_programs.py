"""Programs of other environments."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from tlopt.process import programs


def test_a_program_sees_nothing_of_the_current_folder_and_of_our_python(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    monkeypatch.setenv("LD_PRELOAD", "evil.so")
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", "", ".", "bin"]))
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(["", "lib"]))
    found = programs.environment(first=[Path("/env/bin")], libraries=Path("/env/libs"))
    assert not {"PYTHONPATH", "PYTHONHOME", "LD_PRELOAD"} & found.keys()
    assert found["PATH"] == "/env/bin:/usr/bin"
    assert found["LD_LIBRARY_PATH"] == "/env/libs"
    assert "LD_LIBRARY_PATH" not in programs.environment()


def test_a_script_runs_isolated():
    assert programs.script(Path("/env/bin/python"), Path("/a/script.py"), 3) == [
        "/env/bin/python", "-I", "/a/script.py", "3",
    ]  # fmt: skip


def test_free_ports_are_free_and_a_taken_one_is_not():
    ports = programs.free_ports(3)
    assert len(set(ports)) == 3
    assert not programs.is_taken(programs.LOOPBACK, ports[0])
    with socket.socket() as taken:
        taken.bind((programs.LOOPBACK, ports[0]))
        taken.listen()
        assert programs.is_taken(programs.LOOPBACK, ports[0])


def test_a_port_that_this_user_may_not_listen_on_is_not_called_taken(monkeypatch):
    def bind(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(PermissionError):
        programs.is_taken(programs.LOOPBACK, 80)
