"""The verb serve."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from calling import called
from tiny_engine import write_engine

import tlopt
from tlopt.deployment.serving import environment
from tlopt.errors import ArtifactError
from tlopt.process import programs


def test_a_missing_server_is_one_error_with_the_command_that_brings_it(exported, tmp_path, capsys):
    code, out, err = called(capsys, "serve", exported.path, "--server", tmp_path / "nowhere")
    assert (code, out) == (1, "")
    assert "There is no Python environment in" in err
    assert "-m pip install nvidia-pytriton==" in err


def test_what_cannot_be_served_is_told_before_anything_has_to_be_installed(tmp_path, capsys):
    code, out, err = called(capsys, "serve", tmp_path / "nothing", "--server", tmp_path / "nowhere")
    assert (code, out) == (1, "")
    assert "There is no artifact at" in err


@pytest.fixture
def a_server(monkeypatch):
    """As if there were a server, which is not started."""
    monkeypatch.setattr(environment, "find", lambda _: None)


@pytest.mark.usefixtures("a_server")
def test_a_port_that_this_user_may_not_listen_on_is_not_called_taken(exported, capsys, monkeypatch):
    def refused(host, port):
        raise PermissionError

    monkeypatch.setattr(programs, "is_taken", refused)
    code, _, err = called(capsys, "serve", exported.path, "--port", 80)
    assert code == 2
    assert "You may not listen on port 80 of 127.0.0.1, and HTTP would need it." in err


@pytest.mark.usefixtures("a_server")
def test_an_address_of_another_machine_is_not_a_taken_port(exported, capsys):
    code, _, err = called(capsys, "serve", exported.path, "--host", "192.0.2.1")  # RFC 5737: of no machine
    assert code == 2
    assert "This machine does not have the address 192.0.2.1." in err


@pytest.mark.usefixtures("a_server")
@pytest.mark.parametrize(("offset", "what"), [(0, "HTTP"), (1, "gRPC"), (2, "metrics")])
def test_a_taken_port_is_one_error(exported, capsys, offset, what):
    with socket.socket() as taken:
        taken.bind((programs.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = called(capsys, "serve", exported.path, "--port", port - offset)
    assert (code, out) == (2, "")
    # Another program may have one of the ports before it.
    assert "is taken, and" in err
    assert "Choose another --port." in err


@pytest.mark.usefixtures("a_server")
@pytest.mark.parametrize("host", ["localhost", "1.2.3", ""])
def test_a_host_that_is_no_address_is_one_error(exported, capsys, host):
    code, _, err = called(capsys, "serve", exported.path, "--host", host)
    assert code == 2
    assert "--host takes an IP address" in err


@pytest.mark.usefixtures("a_server")
def test_what_is_printed_names_a_request_that_asks_for_labels(exported, monkeypatch, capsys, tmp_path):
    served = importlib.import_module("tlopt.deployment.serve")
    monkeypatch.setattr(served, "serving", lambda *_: contextlib.nullcontext(SimpleNamespace(version="2.51.0")))
    monkeypatch.setattr(served, "_wait", lambda *_: None)
    port = programs.free_ports(1)[0]
    before = signal.getsignal(signal.SIGTERM)
    code, out, err = called(
        capsys,
        "serve",
        exported.path,
        "--port",
        port,
        "--name",
        "tiny",
        "--keep",
        tmp_path / "kept",
        "--input",
        "pixels",
    )
    assert (code, err) == (0, "")
    arguments = shlex.split(next(line for line in out.splitlines() if line.startswith("curl")))
    assert arguments[2] == f"http://127.0.0.1:{port}/v2/models/tiny/infer"
    content = Path(arguments[-1].removeprefix("@")).read_bytes()
    length = int(arguments[arguments.index("-H") + 1].partition(": ")[2])
    head = json.loads(content[:length])
    assert head["inputs"][0]["shape"] == [1, 32, 32, 3]
    assert head["inputs"][0]["parameters"]["binary_data_size"] == len(content) - length == 32 * 32 * 3
    assert head["outputs"] == [{"name": "logits", "parameters": {"classification": 3}}]
    assert (tmp_path / "kept" / "deploy.json").exists()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("a_server")
def test_a_kept_folder_that_is_there_is_one_error(exported, capsys, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").touch()
    code, out, err = called(
        capsys, "serve", exported.path, "--port", programs.free_ports(1)[0], "--keep", tmp_path / "kept"
    )
    assert (code, out) == (2, "")
    assert "exists already" in err
    assert "Choose another folder for --keep." in err
    assert "--force" not in err


@pytest.mark.usefixtures("a_server")
def test_an_engine_is_refused(tmp_path):
    engine = write_engine(tmp_path / "engine")
    with pytest.raises(ArtifactError, match="is an engine, and the server here has no TensorRT"):
        list(tlopt.serve(engine, port=programs.free_ports(1)[0]))


@pytest.mark.slow
@pytest.mark.skipif(bool(environment.problem()), reason=environment.problem() or "there is a server")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_served_network_answers_the_printed_command_and_stops(exported, tmp_path, number):
    port = programs.free_ports(1)[0]
    command = [sys.executable, "-m", "tlopt", "serve", exported.path, "--port", str(port), "--name", "tiny"]
    # What a shell starts in the background ignores Ctrl-C, and hands that down.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    try:
        lines = [process.stdout.readline().strip() for _ in range(5)]
        asked = next(line for line in lines if line.startswith("curl"))
        done = subprocess.run(shlex.split(asked), capture_output=True, check=True)
        assert len(json.loads(done.stdout)["outputs"][0]["data"]) == len(exported.card.classes)
        group = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _is_ours(p, str(port))]
        assert group
        process.send_signal(number)
        assert process.wait(60) == 0, process.stderr.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()
    assert not [p for p in group if Path(f"/proc/{p}").exists()]
    assert not os.path.exists(shlex.split(asked)[-1].removeprefix("@"))


def _is_ours(process: Path, port: str) -> bool:
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"--http-port={port}".encode() in arguments
