"""The verb serve: a real server on this machine, with the models that deploy makes."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

from tlopt.artifact import Artifact
from tlopt.deployment import manifest
from tlopt.deployment.deploy import deploy
from tlopt.deployment.job import Input, Serving
from tlopt.deployment.serving import environment
from tlopt.deployment.serving.server import Ports, Server, serving
from tlopt.deployment.targets import triton
from tlopt.deployment.triton.asking import Body
from tlopt.errors import ArtifactError, OutputExistsError, SettingError, StageError
from tlopt.process import programs, temporary
from tlopt.settings import Setting, flat

log = logging.getLogger(__name__)

_TARGET = "triton"
_TICK_SECONDS = 0.2  # between two looks at the server


@flat
def serve(
    artifact: str | Path | Artifact,
    *,
    port: Annotated[
        int, Setting("Port of HTTP. gRPC takes the next one, and metrics the one after it.", minimum=1, maximum=65533)
    ] = 8000,
    host: Annotated[str, Setting("Address to listen on. 0.0.0.0 lets other machines ask.")] = programs.LOOPBACK,
    input_: Annotated[
        Input | None, Setting("What a request holds: an image file, or pixels of the network's size. Default: image.")
    ] = None,
    name: Annotated[str, Setting("Name of the model. Default: that of the artifact's folder.")] = "",
    backend: Annotated[
        str, Setting("Runtime that runs the network: onnxruntime or openvino. Default: that of the artifact.")
    ] = "",
    serving: Serving = Serving(),  # noqa: B008 - it is frozen
    keep: Annotated[
        Path | None, Setting("Folder to make and keep the deployment in. Default: a temporary one.")
    ] = None,
) -> Iterator[str]:
    """Serve an artifact on this machine, with Triton.

    The server is a tritonserver in an environment of its own, which has to be installed once. It
    serves what tlopt deploy --for triton writes.

    It runs until Ctrl-C or SIGTERM. Only this machine can ask it unless --host says otherwise.

    Raises:
        ArtifactError: The artifact is damaged, or Triton does not serve its kind here.
        SettingError: A port is taken, or a setting does not fit.
        MissingLibraryError: The server is not installed.
        StageError: The server refuses the model, or ends by itself.
    """
    loaded = _served(artifact)
    found = environment.find(serving.server)
    ports = _ports(host, port)
    return _lines(loaded, found, ports, _Wanted(input=input_, name=name, backend=backend, serving=serving), keep)


def _served(artifact: str | Path | Artifact) -> Artifact:
    """Open what is to be served: told before anything has to be installed.

    Raises:
        ArtifactError: It is damaged, or an engine: that takes a GPU and a server with TensorRT.
    """
    loaded = Artifact.load(artifact)
    if loaded.card.kind == "tensorrt":
        raise ArtifactError(
            f"{loaded.path} is an engine, and the server here has no TensorRT.",
            hint="tlopt deploy --for triton says which container serves it. The onnx artifact is served here.",
        )
    return loaded


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What deploy is told."""

    input: Input | None
    name: str
    backend: str
    serving: Serving


def _ports(host: str, port: int) -> Ports:
    """Return where to listen.

    Raises:
        SettingError: The address is none, somebody listens there already, or this user may not.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise SettingError(
            f"--host takes an IP address, got {host!r}.", hint="127.0.0.1 is this machine alone."
        ) from error
    for number, what in enumerate(("HTTP", "gRPC", "metrics")):
        try:
            taken = programs.is_taken(host, port + number)
        except PermissionError as error:
            raise SettingError(
                f"You may not listen on port {port + number} of {host}, and {what} would need it.",
                hint="Ports from 1024 on are for everybody.",
            ) from error
        except OSError as error:
            raise SettingError(
                f"This machine does not have the address {host}.", hint="0.0.0.0 stands for all that it has."
            ) from error
        if taken:
            raise SettingError(
                f"Port {port + number} of {host} is taken, and {what} would need it.", hint="Choose another --port."
            )
    return Ports(host=host, http=port, grpc=port + 1, metrics=port + 2)


def _lines(
    artifact: Artifact, found: environment.Environment, ports: Ports, wanted: _Wanted, keep: Path | None
) -> Iterator[str]:
    with _told_to_stop() as stopped, temporary.folder("serve") as scratch:
        try:
            folder, said = _deployment(artifact, wanted, keep or scratch / "deployment")
        except OutputExistsError as error:
            raise OutputExistsError(error.message, hint="Choose another folder for --keep.") from error
        with serving(found, folder / triton.MODELS, ports, stopped) as server:
            if stopped():
                return
            where = f"http://{ports.address}"
            yield f"{said.name} on tritonserver {server.version}: {where}:{ports.http}, gRPC on port {ports.grpc}"
            yield f"Metrics: {where}:{ports.metrics}/metrics"
            yield "Ask it about an image that tlopt has drawn:"
            file = folder / triton.EXAMPLE
            yield Body.read(file).command(file, said.name, ports.address, ports.http)
            yield "Stop it with Ctrl-C."
            _wait(server, stopped)


def _deployment(artifact: Artifact, wanted: _Wanted, place: Path) -> tuple[Path, manifest.Manifest]:
    """Make the folder with the model repository; return it and what it is."""
    made = deploy(
        [artifact], place, for_=_TARGET, input_=wanted.input, name=wanted.name, backend=wanted.backend,
        check=False, **vars(wanted.serving),
    )  # fmt: skip
    return made.path, made.manifest


@contextlib.contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
    """Yield what says whether a signal to end has come: none breaks off the work of ending."""
    came = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - of every handler
        came.set()

    if threading.current_thread() is not threading.main_thread():
        yield came.is_set  # only the main thread may say what signals do
        return
    ends = [
        one for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, handle) for number in ends}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(server: Server, stopped: Callable[[], bool]) -> None:
    """Wait until the server is to stop.

    Raises:
        StageError: It has ended by itself.
    """
    server.news()  # what it said while it started is of no use any more
    while not stopped():
        for line in server.news():
            log.warning("tritonserver: %s", line)
        if said := server.ended():
            raise StageError(said)
        time.sleep(_TICK_SECONDS)
