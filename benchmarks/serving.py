"""What a served network does under load: images a second, latency, and whether an answer is lost or wrong.

    python benchmarks/serving.py [--artifact DIR] [--server DIR] [--peer PYTHON] [--seconds 3] [--parts load,soak,bad]

The server is tritonserver from `make serve-env`, with the models that `tlopt deploy --for triton` writes. A Python
model stands in for its own ONNX Runtime backend, so these figures are about batching, protocol and decoding on a
processor. They are no measure of the C++ backend. The clients run on the same cores as the server.

load   EfficientNet-Lite0 at 224 px, or --artifact. Closed loop: 1 to 64 clients. Open loop: requests at random with a
       rising rate, until 99 % of the answers take longer than the budget. With and without dynamic batching; beside
       `tlopt predict` on the same images and cores, and LitServe (--peer names a Python that has it) with the same
       model and the same decoding. The processor time of the server's processes per image is given, too: other work
       on the machine does not change it.
soak   A network of 32 px: 50,000 requests over HTTP and gRPC, each answer compared.
bad    500 requests that nobody should send: each has to get an error, and the next good one its answer.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tlopt
from tlopt.artifact import Artifact
from tlopt.deployment import reference, vendored
from tlopt.deployment.job import Input, Job
from tlopt.deployment.serving import environment
from tlopt.deployment.serving.client import Endpoint, load
from tlopt.deployment.serving.server import Ports, Server, serving
from tlopt.deployment.triton.asking import Body, body, request_inputs
from tlopt.deployment.triton.repository import Settings, repository
from tlopt.environment import cores, processor, versions
from tlopt.process import programs
from tlopt.publishing import write_whole

RESULTS = Path(__file__).with_name("results")
CALLERS = (1, 4, 16, 64)
BUDGET_MS = 250.0  # for the 99th percentile of the open loop
IMAGES = 24
SOAK = 50_000
BAD = 500


def job_of(artifact: Artifact, kind: Input, name: str = "network") -> Job:
    return Job(artifacts=(artifact,), target="triton", name=name, backend="onnxruntime", input=kind, max_batch=32)


def settings_of(batch: int, delay_ms: float = 0.5, instances: int = 1) -> Settings:
    return Settings(max_batch=batch, max_delay_ms=delay_ms, instances=instances, threads=max(1, cores() // instances))


class Serving:
    """A model in a repository of its own, served for the length of a block."""

    def __init__(self, env: environment.Environment, job: Job, settings: Settings, *, dynamic: bool = True) -> None:
        self.env, self.job = env, job
        self._made = repository(job, settings, dynamic=dynamic)
        self.endpoint: Endpoint = self._made.endpoint
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Serving:
        self._made.write(Path(self._folder.name))
        self._server = serving(self.env, Path(self._folder.name))
        self.server: Server = self._server.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._server.__exit__(*raised)
        self._folder.cleanup()

    def load(self, files: Mapping[str, bytes], loads: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
        """Load it with files in several ways, one after the other, and compare the answers."""
        wanted = reference.answers(self.job, dict(files))
        inputs = request_inputs(self.job, dict(files))
        return load(self.env, self.server.ports, self.endpoint, inputs, loads, expected=wanted, **more)


def photos(count: int) -> dict[str, bytes]:
    """Return JPEG files like those of a camera, scaled down: 640 x 480."""
    random, found = np.random.default_rng(0), {}
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        coarse = coarse.resize((640, 480), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        coarse.save(stream, "JPEG", quality=85)
        found[f"{number:03}.jpg"] = stream.getvalue()
    return found


def measure_load(env: environment.Environment, artifact: Artifact, seconds: float) -> list[dict[str, Any]]:
    files, rows = photos(IMAGES), []
    variants: list[tuple[Input, Settings, bool, str]] = [
        ("pixels", settings_of(32), True, "dynamic batching"),
        ("pixels", settings_of(32), False, "no dynamic batching"),
        ("pixels", settings_of(32, instances=cores()), False, f"no dynamic batching, {cores()} instances"),
        ("image", settings_of(32), True, "dynamic batching"),
    ]
    for kind, settings, dynamic, what in variants:
        with Serving(env, job_of(artifact, kind), settings, dynamic=dynamic) as served:
            found = []
            for callers in CALLERS:
                before = spent(served.server.process_id)
                one = {"loop": "closed", "protocol": "grpc", "callers": callers, "seconds": seconds}
                (row,) = served.load(files, [one])
                used = spent(served.server.process_id) - before
                # Each client has sent one more request, to open its connection.
                found.append({**row, "cpu_ms": 1000 * used / (row["requests"] + callers)})
            peak = max(row["per_s"] for row in found)
            rates = [peak * share for share in (0.25, 0.5, 0.75, 1.0)]
            opened = [{"loop": "open", "rate": rate, "seconds": seconds, "seed": 0} for rate in rates]
            found += served.load(files, opened, stop_over_p99_ms=BUDGET_MS)
        rows += [{"server": f"tritonserver, {what}", "input": kind, **row} for row in found]
        print(f"{kind}, {what}: {peak:.0f} images/s", file=sys.stderr)
    return rows


def spent(group: int) -> float:
    """Return the processor seconds that the living processes of a group have used: other work does not change them."""
    ticks = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure_predict(artifact: Artifact) -> dict[str, Any]:
    """Time tlopt predict on the same images, each several times."""
    with tempfile.TemporaryDirectory() as name:
        for number in range(16):
            for file, content in photos(IMAGES).items():
                (Path(name) / f"{number}-{file}").write_bytes(content)
        list(tlopt.predict(artifact, name))  # warm
        began, used = time.perf_counter(), time.process_time()
        count = sum(1 for _ in tlopt.predict(artifact, name))
        took, used = time.perf_counter() - began, time.process_time() - used
    return {"server": "tlopt predict", "input": "image", "per_s": count / took, "cpu_ms": 1000 * used / count}


PEER = """
import base64, importlib.util, io, sys
import litserve, numpy as np, onnxruntime

spec = importlib.util.spec_from_file_location("decoding", sys.argv[1])
decoding = importlib.util.module_from_spec(spec)
sys.modules["decoding"] = decoding
spec.loader.exec_module(decoding)

class Network(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(sys.argv[4])
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
    def decode_request(self, request):
        return base64.b64decode(request["image"])
    def batch(self, files):
        return np.stack([decoding.PREPROCESS(io.BytesIO(one)) for one in files])
    def predict(self, inputs):
        return self.session.run(None, {"images": inputs})[0]
    def unbatch(self, output):
        return list(output)
    def encode_response(self, output):
        return {"logits": np.asarray(output, np.float32).tolist()}

if __name__ == "__main__":
    api = Network(max_batch_size=32, batch_timeout=0.0005)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[3]), generate_client_file=False, num_api_servers=1)
"""


def measure_peer(python: Path, artifact: Artifact, seconds: float) -> list[dict[str, Any]]:
    """Load LitServe over HTTP, with the same decoding, model, threads, largest batch and wait."""
    files = list(photos(IMAGES).values())
    job = job_of(artifact, "image")
    wanted = reference.answers(job, dict(enumerate(files)))  # type: ignore[arg-type]
    (port,) = programs.free_ports(1)
    asked = "import importlib.metadata; print(importlib.metadata.version('litserve'))"
    version = subprocess.run([python, "-I", "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "peer.py").write_text(PEER)
        (folder / "decoding.py").write_text(vendored.decoding(job))
        shutil.copy(artifact.payload(".onnx"), folder / "model.onnx")
        command: list[str | Path] = [
            python,
            "-P",
            folder / "peer.py",
            folder / "decoding.py",
            folder / "model.onnx",
            str(port),
            str(cores()),
        ]
        with (folder / "log").open("wb") as log:
            peer = subprocess.Popen(
                command, env=programs.environment(), cwd=name, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_for(port, peer, folder / "log")
            for callers in CALLERS:
                before = spent(peer.pid)
                row = post(port, files, wanted, callers, seconds)
                row["cpu_ms"] = 1000 * (spent(peer.pid) - before) / row["requests"]
                rows.append({"server": f"LitServe {version}", "input": "image", **row})
                print(f"LitServe, {callers} clients: {rows[-1]['per_s']:.0f} images/s", file=sys.stderr)
        finally:
            os.killpg(peer.pid, 15)
            peer.wait(30)
    return rows


def wait_for(port: int, peer: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        assert peer.poll() is None, log.read_text()[-2000:]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.2)


def post(port: int, files: list[bytes], wanted: np.ndarray, callers: int, seconds: float) -> dict[str, Any]:
    """Post files from several threads in a closed loop; return what `load` returns of one."""
    times: list[float] = []
    wrong, lost, lock = [0], [0], threading.Lock()
    limit = 1e-3 * float(wanted.std())
    start = threading.Barrier(callers + 1)
    bodies = [json.dumps({"image": base64.b64encode(one).decode()}) for one in files]
    head = {"Content-Type": "application/json"}

    def call(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        start.wait()
        until, which = time.perf_counter() + seconds, number
        while time.perf_counter() < until:
            which = (which + 1) % len(files)
            began = time.perf_counter()
            connection.request("POST", "/predict", bodies[which], head)
            answer = connection.getresponse()
            body = answer.read()
            took = time.perf_counter() - began
            fine = answer.status == 200
            off = fine and np.abs(np.array(json.loads(body)["logits"]) - wanted[which]).max() > limit
            with lock:
                times.append(took)
                lost[0] += not fine
                wrong[0] += bool(off)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    every = np.array(times) * 1000
    return {
        "loop": "closed", "protocol": "http", "callers": callers, "requests": len(times), "wrong": wrong[0],
        "lost": lost[0], "per_s": len(times) / took, "p50_ms": float(np.quantile(every, 0.5)),
        "p99_ms": float(np.quantile(every, 0.99)),
    }  # fmt: skip


def soak(env: environment.Environment, folder: Path) -> list[dict[str, Any]]:
    artifact = tiny(folder)
    files = photos(IMAGES)
    with Serving(env, job_of(artifact, "pixels", "tiny"), settings_of(32)) as served:
        loads = [
            {"loop": "closed", "protocol": protocol, "callers": 16, "requests": SOAK // 2}
            for protocol in ("grpc", "http")
        ]
        rows = served.load(files, loads)
    for row in rows:
        print(
            f"soak, {row['protocol']}: {row['requests']} requests, {row['wrong']} wrong, {row['lost']} lost",
            file=sys.stderr,
        )
    return rows


def tiny(folder: Path) -> Artifact:
    """Return the tiny network of the tests, trained on nothing, as ONNX."""
    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]
    from tiny_images import write_photos

    images = write_photos(folder / "photos")
    tuned = tlopt.finetune(images, folder / "tuned", model="tiny_models:cnn", epochs=1, cache_dir=folder / "cache")
    return tlopt.export(tuned, folder / "fp32")


def bad_requests(model: str, file: bytes) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Yield what is wrong, and the path, body and headers of a request with that."""
    path = f"/v2/models/{model}/infer"
    raw = {"Inference-Header-Content-Length": "0"}

    def binary(
        content: bytes, kind: str = "BYTES", shape: tuple[int, ...] = (1, 1), name: str = "image"
    ) -> tuple[bytes, dict[str, str]]:
        body = struct.pack("<I", len(content)) + content if kind == "BYTES" else content
        head = {
            "inputs": [{"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(body)}}]
        }
        text = json.dumps(head).encode()
        return text + body, {"Inference-Header-Content-Length": str(len(text))}

    yield "an empty body", path, b"", raw
    yield "an empty file", path, *binary(b"")
    yield "a truncated JPEG", path, file[: len(file) // 2], raw
    yield "a JPEG of which the head is left", path, *binary(file[:40])
    yield "text for an image", path, b"this is no image at all", raw
    yield "a wrong shape", path, *binary(file, shape=(1, 2))
    yield "a shape without a batch", path, *binary(file, shape=(1,))
    yield "more images than fit a batch", path, *binary(file, shape=(33, 1))
    yield "floats for a file", path, *binary(np.zeros(16, np.float32).tobytes(), kind="FP32", shape=(1, 16))
    yield "a type that there is not", path, *binary(file, kind="JPEG")
    yield "an input that there is not", path, *binary(file, name="picture")
    yield "no JSON", path, b"{", {}
    yield "JSON without inputs", path, b"{}", {}
    yield "a head longer than the body", path, file, {"Inference-Header-Content-Length": "999999999"}
    yield "a head of negative length", path, file, {"Inference-Header-Content-Length": "-5"}
    yield "a model that there is not", "/v2/models/nobody/infer", file, raw
    lying = struct.pack("<I", 2**31) + file
    head = {
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(lying)}}
        ]
    }
    text = json.dumps(head).encode()
    yield "a file said to be longer than it is", path, text + lying, {"Inference-Header-Content-Length": str(len(text))}


def bad(env: environment.Environment, folder: Path) -> dict[str, Any]:
    artifact = tiny(folder)
    file = next(iter(photos(1).values()))
    job = job_of(artifact, "image", "tiny")
    wanted = reference.answers(job, {"image.jpg": file})[0]
    kinds, good, wrong = Counter[str](), 0, []
    with Serving(env, job, settings_of(32)) as served:
        every = list(bad_requests("tiny", file))
        right = body(served.endpoint, np.frombuffer(file, np.uint8), classes=0)
        large = (
            "100 MB of noise",
            "/v2/models/tiny/infer",
            os.urandom(100_000_000),
            {"Inference-Header-Content-Length": "0"},
        )
        for number in range(BAD):
            what, path, content, headers = large if number % 100 == 99 else every[number % len(every)]
            status, answer = send(served.server.ports, path, content, headers)
            kinds[what] += 1
            if not 400 <= status < 600 or b"error" not in answer:
                wrong.append(f"{what}: {status} {answer[:100]!r}")
            if number % 10 == 9:
                good += is_right(served.server.ports, right, wanted)
        alive = served.server.ended() == ""
    found = {
        "requests": sum(kinds.values()), "kinds": dict(kinds), "without_an_error": wrong, "good_between": BAD // 10,
        "good_answered_right": good, "server_goes_on": alive,
    }  # fmt: skip
    print(
        f"bad: {found['requests']} requests, {len(wrong)} without an error, {good} of {BAD // 10} good ones right",
        file=sys.stderr,
    )
    return found


def send(ports: Ports, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(ports.host, ports.http, timeout=120)
    try:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def is_right(ports: Ports, request: Body, wanted: np.ndarray) -> bool:
    headers = {"Inference-Header-Content-Length": str(request.head)}
    status, answer = send(ports, "/v2/models/tiny/infer", request.content, headers)
    if status != 200:
        return False
    said = np.array(json.loads(answer)["outputs"][0]["data"], np.float32)
    return bool(np.abs(said - wanted).max() < 1e-3 * max(float(wanted.std()), 1e-6))


def made(folder: Path) -> Artifact:
    if not (folder / "fp32").exists():
        tlopt.import_model(None, folder / "torch", model="pip:efficientnet_lite0")
        tlopt.export(folder / "torch", folder / "fp32")
    return Artifact.load(folder / "fp32")


def text(found: Mapping[str, Any]) -> str:
    """Return the results as a page."""
    lines = ["# A served network under load", ""]
    if rows := found.get("load"):
        lines += [
            found["conditions"]["load"],
            "",
            "| server | input | load | images/s | p50 ms | p99 ms | processor ms per image | wrong or lost |",
            "|---|---|---|---:|---:|---:|---:|---:|",
        ]
        for row in rows:
            kind = (
                ""
                if "loop" not in row
                else f"{row['callers']} clients, {row['protocol']}"
                if row["loop"] == "closed"
                else f"open, {row['rate']:.0f} a second"
            )
            figures = [f"{row[name]:.1f}" if name in row else "" for name in ("per_s", "p50_ms", "p99_ms", "cpu_ms")]
            lost = row["wrong"] + row["lost"] if "wrong" in row else ""
            lines.append(f"| {row['server']} | {row['input']} | {kind} | {' | '.join(figures)} | {lost} |")
        lines.append("")
    for row in found.get("soak", ()):
        lines.append(
            f"- {row['requests']} requests over {row['protocol']}: {row['wrong']} wrong, {row['lost']} lost, "
            f"{row['per_s']:.0f} a second."
        )
    if row := found.get("bad"):
        lines.append(
            f"- {row['requests']} malformed requests of {len(row['kinds'])} kinds: "
            f"{len(row['without_an_error'])} got no error. "
            f"{row['good_answered_right']} of {row['good_between']} good ones between them were answered right. "
            f"The server {'went on' if row['server_goes_on'] else 'ended'}."
        )
    lines += ["", *(f"{part}: {found['conditions'][part]}\n" for part in ("soak", "bad") if part in found)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--server", type=Path)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--parts", default="load,soak,bad")
    parser.add_argument("--out", type=Path, default=RESULTS / "serving.json")
    given = parser.parse_args()
    env, parts = environment.find(given.server), given.parts.split(",")
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "load" in parts:
            artifact = Artifact.load(given.artifact) if given.artifact else made(folder)
            found["load"] = [measure_predict(artifact), *measure_load(env, artifact, given.seconds)]
            if given.peer:
                found["load"] += measure_peer(given.peer, artifact, given.seconds)
        if "soak" in parts:
            found["soak"] = soak(env, folder / "soak")
        if "bad" in parts:
            found["bad"] = bad(env, folder / "bad")
    packages = ", ".join(
        f"{name} {env.version(name)}" for name in ("nvidia-pytriton", "tritonclient", "onnxruntime", "numpy")
    )
    command = " ".join(["python", "benchmarks/serving.py", *sys.argv[1:]])
    said = (
        f"{processor()}, {cores()} cores; server: {packages}; tlopt {versions()['tlopt']}. `{command}`. "
        f"Load of the machine before: {before:.1f}{' (other work ran beside this)' if before > cores() / 2 else ''}."
    )
    found["conditions"] = {**found.get("conditions", {}), **dict.fromkeys(parts, said)}
    given.out.parent.mkdir(exist_ok=True)
    write_whole(given.out, json.dumps(found, indent=1) + "\n")
    write_whole(given.out.with_suffix(".md"), text(found))


if __name__ == "__main__":
    main()
