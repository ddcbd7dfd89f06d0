"""Starting and stopping a server: here a small program in its place."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tlopt.deployment.serving import server as servers
from tlopt.deployment.serving.environment import Environment
from tlopt.deployment.serving.server import Ports, serving
from tlopt.errors import StageError


@pytest.fixture
def environment(tmp_path) -> Environment:
    """An environment with a program that stands in for tritonserver."""
    folder = tmp_path / "environment"
    packages = folder / "site-packages"
    wheel = packages / "pytriton" / "tritonserver"
    (wheel / "bin").mkdir(parents=True)
    (wheel / "backends" / "python").mkdir(parents=True)
    (wheel / "backends" / "python" / "libtriton_python.so").write_text("")
    (folder / "stub").write_text("")
    program = wheel / "bin" / "tritonserver"
    code = Path(__file__).with_name("fake_server.py").read_text()
    program.write_text(f"#!{sys.executable} -S\n{code}")
    program.chmod(0o755)
    return Environment(folder=folder, python=Path(sys.executable), packages=packages, stub=folder / "stub")


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tell").write_text(str(tmp_path / "seen"))  # where the program says what it sees
    return folder


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _ends(process: int) -> bool:
    """Whether a process that was killed is gone as soon as the machine gives it a moment to end in."""
    until = time.monotonic() + 60
    while _alive(process) and time.monotonic() < until:
        time.sleep(0.01)
    return not _alive(process)


def test_a_server_runs_in_an_empty_folder_and_its_children_end_with_it(environment, repository):
    with serving(environment, repository) as server:
        assert server.version == "0.0.fake"
        assert server.ended() == ""
        assert {file.name for file in repository.iterdir()} == {"tell"}
        folder, own, child, _, *options = (repository.parent / "seen").read_text().splitlines()
        assert os.listdir(folder) == []
        assert int(own) == server.process_id
        assert _alive(int(child))
        backends = Path(next(o for o in options if o.startswith("--backend-directory=")).partition("=")[2])
        assert {f.name for f in backends.iterdir()} == {"python", "onnxruntime", "openvino"}
        assert (backends / "python" / "triton_python_backend_stub").exists()
        assert "--http-address=127.0.0.1" in options
    assert not _alive(int(own))
    assert _ends(int(child))
    assert not Path(folder).exists()


def test_warnings_and_errors_of_the_log_are_told_once(environment, repository):
    with serving(environment, repository) as server:
        server.news()
        with server.log.open("a") as log:
            log.write('I1126 03:00:00.0 1 a.cc:1] "all is well"\nW1126 03:00:00.0 1 a.cc:2] "it is late"\nE1126 half a')
        assert server.news() == ["it is late"]
        with server.log.open("a") as log:
            log.write('.cc:3] "gone"\n')
        assert server.news() == ["gone"]
        assert server.news() == []


def test_what_happens_in_the_block_does_not_leave_a_server_behind(environment, repository):
    def interrupted():
        with serving(environment, repository):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    own, child = map(int, (repository.parent / "seen").read_text().splitlines()[1:3])
    assert not _alive(own)
    assert _ends(child)


def test_a_server_that_refuses_a_model_is_an_error_with_its_words(environment, repository):
    (repository / "refused").touch()
    with (
        pytest.raises(StageError, match="tritonserver ended with code 1: failed to load 'lite'"),
        serving(environment, repository),
    ):
        pytest.fail("it has not started")


def test_a_server_that_ends_by_itself_says_so(environment, repository):
    with serving(environment, repository) as server:
        os.kill(server.process_id, 9)
        while not server.ended():
            pass
        assert "signal 9" in server.ended()


def test_a_program_that_cannot_run_is_an_error(environment, repository):
    shutil.rmtree(environment.tritonserver.parent)
    with pytest.raises(StageError, match="ended with code 1"), serving(environment, repository):
        pytest.fail("it has not started")


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "127.0.0.1")]
)
def test_a_client_reaches_it_at_an_address(host, address):
    assert Ports(host=host, http=1, grpc=2, metrics=3).address == address


@pytest.mark.parametrize(
    ("host", "http", "grpc"),
    [("127.0.0.1", "127.0.0.1", "127.0.0.1"), ("::1", "ipv6:::1", "[::1]"), ("::", "ipv6:::", "[::]")],
)
def test_the_server_is_told_an_address_as_each_of_its_parts_reads_it(environment, tmp_path, host, http, grpc):
    ports = Ports(host=host, http=1, grpc=2, metrics=3)
    told = servers._command(environment, tmp_path, ports, "x")
    assert {f"--http-address={http}", f"--grpc-address={grpc}", f"--metrics-address={http}"} <= set(told)
