"""A tritonserver that serves a model repository on this machine for as long as it is wanted."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlopt.deployment.serving.environment import INSIDE, Environment
from tlopt.errors import StageError
from tlopt.process import children, programs, temporary
from tlopt.reading.names import shown_name

log = logging.getLogger(__name__)

STAND_INS = ("onnxruntime", "openvino")  # backends that a Python model stands in for
_READY_SECONDS = 300
_STOP_SECONDS = 20
_NOISE = frozenset({"CudaDriverHelper has not been initialized."})  # on every machine without a GPU
_TOLD = 5  # lines of the server's log in an error


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where a server listens.

    Args:
        host: The address.
        http: Port of HTTP.
        grpc: Port of gRPC.
        metrics: Port of the metrics.
    """

    host: str
    http: int
    grpc: int
    metrics: int

    @classmethod
    def free(cls) -> Ports:
        """Return ports of the loopback interface that nobody uses."""
        http_port, grpc, metrics = programs.free_ports(3)
        return cls(host=programs.LOOPBACK, http=http_port, grpc=grpc, metrics=metrics)

    @property
    def reached(self) -> str:
        """The host that a client on this machine asks."""
        return programs.LOOPBACK if self.host in ("0.0.0.0", "::") else self.host

    @property
    def address(self) -> str:
        """The same as part of an address: one of IPv6 in brackets."""
        return f"[{self.reached}]" if ":" in self.reached else self.reached


class Server:
    """A running tritonserver.

    Attributes:
        ports: Where it listens.
        log: The file with its messages.
        version: Its version.
    """

    def __init__(self, process: subprocess.Popen[bytes], ports: Ports, log: Path) -> None:
        self._process = process
        self.ports, self.log = ports, log
        self.version = ""
        self._told = 0

    @property
    def process_id(self) -> int:
        """Number of its process; its group has the same one."""
        return self._process.pid

    def ended(self) -> str:
        """Return how it ended, with its last errors; empty while it runs."""
        code = self._process.poll()
        return "" if code is None else f"tritonserver {children.ended(code)}{self._errors()}"

    def news(self) -> list[str]:
        """Return the warnings and errors that it has logged since it was last asked."""
        with self.log.open("rb") as file:
            file.seek(self._told)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._told += len(whole)
        return _telling(whole.decode(errors="replace").splitlines(), "EW")

    def wait_until_ready(self, stopped: Callable[[], bool]) -> None:
        """Wait until it has loaded all models, or nobody wants it any more.

        Raises:
            StageError: It ended instead, or it takes too long.
        """
        limit = time.monotonic() + _READY_SECONDS
        while time.monotonic() < limit and not stopped():
            if said := self.ended():
                log.info("%s", self.log.read_text(encoding="utf-8", errors="replace"))
                raise StageError(said, hint="--verbose shows its whole log.")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._get("/v2/health/ready")[0] == http.HTTPStatus.OK:
                    self.version = str(json.loads(self._get("/v2")[1])["version"])
                    return
            time.sleep(0.05)
        if not stopped():
            raise StageError(f"tritonserver was not ready after {_READY_SECONDS} seconds{self._errors()}")

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.ports.reached, self.ports.http, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _errors(self) -> str:
        """Return its last errors as the rest of a sentence."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        telling = _telling(lines, "E")[-_TOLD:] or [line for line in lines if line][-_TOLD:]
        return ": " + " | ".join(map(shown_name, telling)) if telling else "."

    def stop(self) -> None:
        """End it and all processes that it started; return when they have ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        # The processes of its Python models are in its group; one that hangs would outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _telling(lines: list[str], levels: str) -> list[str]:
    """Return what some lines of its log say, each once: E1126 03:01:02.123456 17 file.cc:12] "what it says"."""
    found = [line.partition("] ")[2].partition("\\n")[0].strip(' "') for line in lines if line[:1] in levels]
    return [line for line in dict.fromkeys(found) if line and line not in _NOISE]


@contextlib.contextmanager
def serving(
    environment: Environment, repository: Path, ports: Ports | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Server]:
    """Serve a model repository for the length of the block.

    Args:
        environment: Where the server is.
        repository: Folder of models. Nothing in it is changed.
        ports: Where to listen; free ports of the loopback interface if None.
        stopped: Asked while it starts; the block begins at once if this returns true.

    Raises:
        StageError: The server does not start, or refuses a model.
    """
    with temporary.locked_folder("serve") as (work, lock):
        _backends(environment, work / "backends")
        # Python compiles the models where they lie, whatever its variables say: not in the folder of somebody else.
        shutil.copytree(repository, work / "models")
        # A Python model searches the server's current folder first, so that folder is one with nothing in it.
        (work / "empty").mkdir()
        ports = ports or Ports.free()
        with (work / "log").open("wb") as log:
            process = subprocess.Popen(
                _command(environment, work, ports, temporary.shared_memory(work)),
                env=programs.environment(first=[environment.folder / "bin"], libraries=environment.libraries),
                cwd=work / "empty", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(lock,),  # it may outlive this process for a moment
            )  # fmt: skip
        server = Server(process, ports, work / "log")
        try:
            server.wait_until_ready(stopped)
            yield server
        finally:
            server.stop()


def _backends(environment: Environment, folder: Path) -> None:
    """Make a folder of backends: the Python one, and what stands in for those that the wheel lacks."""
    shutil.copytree(environment.python_backend, folder / "python", dirs_exist_ok=True)
    shutil.copy(environment.stub, folder / "python" / "triton_python_backend_stub")
    for name in STAND_INS:
        (folder / name).mkdir()
        shutil.copy(INSIDE / "backend.py", folder / name / "model.py")


def _command(environment: Environment, work: Path, ports: Ports, prefix: str) -> list[str]:
    options: dict[str, Any] = {
        "model-repository": work / "models",
        "backend-directory": work / "backends",
        # Its parts write an address of IPv6 in two ways.
        "http-address": f"ipv6:{ports.host}" if ":" in ports.host else ports.host, "http-port": ports.http,
        "grpc-address": f"[{ports.host}]" if ":" in ports.host else ports.host, "grpc-port": ports.grpc,
        "metrics-address": f"ipv6:{ports.host}" if ":" in ports.host else ports.host, "metrics-port": ports.metrics,
        "exit-timeout-secs": 5,
        "backend-config": f"python,shm-region-prefix-name={prefix}",
    }  # fmt: skip
    arguments = ["--disable-auto-complete-config", *(f"--{name}={value}" for name, value in options.items())]
    return programs.script(environment.python, INSIDE / "starter.py", os.getpid(), environment.tritonserver, *arguments)
