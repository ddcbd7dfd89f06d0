"""The client of a served model against the protocol, and against servers that do not keep to it."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path

import numpy as np
import openvino
import pytest
from brightest import CLASSES, write_fixed, write_onnx

import tlopt
from tlopt.deployment import reference


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """Images of each request, 0 for any -> a deployment."""
    folder = tmp_path_factory.mktemp("made")
    artifacts = {0: tiny, 2: write_fixed(folder / "fixed", 2)}
    return {
        batch: tlopt.deploy(one, folder / f"out{batch}", for_="openvino-server", name="birds_1.0", check=False).path
        for batch, one in artifacts.items()
    }


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in reference.images(3).items():
        (folder / name).write_bytes(content)
    return sorted(folder.iterdir())


class Server(http.server.BaseHTTPRequestHandler):
    """What version 2 of the KServe protocol says of inference, with its extension for binary data."""

    model, binary, asked = None, True, 0

    def do_POST(self):
        assert self.path == "/v2/models/birds_1.0/infer"
        type(self).asked += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        end = int(self.headers["Inference-Header-Content-Length"])
        asked = json.loads(body[:end])
        (given,) = asked["inputs"]
        assert given["datatype"] == "UINT8"
        assert given["parameters"]["binary_data_size"] == len(body) - end
        pixels = np.frombuffer(body[end:], np.uint8).reshape(given["shape"])
        try:
            found = self.model({given["name"]: pixels})
        except RuntimeError as error:
            self.send_error(400, str(error).partition("\n")[0])
            return
        answers = found[asked["outputs"][0]["name"]]
        output = {"name": asked["outputs"][0]["name"], "shape": list(answers.shape), "datatype": "FP32"}
        if self.binary:
            output["parameters"] = {"binary_data_size": answers.nbytes}
        else:
            output["data"] = answers.ravel().tolist()
        head = json.dumps({"outputs": [output]}).encode()
        self.send_response(200)
        if self.binary:
            self.send_header("Inference-Header-Content-Length", str(len(head)))
        self.end_headers()
        self.wfile.write(head + (answers.tobytes() if self.binary else b""))

    def log_message(self, *arguments):
        pass


class Odd(http.server.BaseHTTPRequestHandler):
    """A server that says the same whatever it is asked."""

    raw, status, body, headers_sent = b"", 200, b"", {}

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.raw:
            self.wfile.write(self.raw)
            return
        self.send_response(self.status)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    """Start servers; return their addresses."""
    started = []

    def start(handler):
        server = http.server.HTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def model(serve, monkeypatch):
    """Serve the model of a deployment as OpenVINO's server does; return its address."""

    def start(folder, **changes):
        config = json.loads((folder / "config.json").read_text())["model_config_list"][0]["config"]
        compiled = openvino.Core().compile_model(folder / "birds_1.0/1/model.xml", "CPU", config["plugin_config"])
        for name, value in {"model": staticmethod(compiled), "asked": 0, **changes}.items():
            monkeypatch.setattr(Server, name, value)
        return serve(Server)

    return start


@pytest.fixture
def client(monkeypatch):
    """Import the client of a deployment into this process."""

    def load(folder):
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        monkeypatch.delitem(sys.modules, "decoding", raising=False)
        spec = importlib.util.spec_from_file_location("client", folder / "client.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield load
    sys.modules.pop("decoding", None)


@pytest.mark.parametrize("binary", [True, False])
def test_it_prints_what_predict_prints(made, client, model, tiny, images, capsys, binary):
    address = model(made[0], binary=binary)
    assert client(made[0]).main([*map(str, images), "--url", f"{address}/"]) == 0
    assert capsys.readouterr().out.splitlines() == [one.line() for one in tlopt.predict(tiny, images[0].parent)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_model_that_takes_so_many_images_gets_as_many_and_answers_for_those_that_were_given(
    made, client, model, tiny, images, capsys, count
):
    address = model(made[2])
    assert client(made[2]).main([*map(str, images[:count]), "--url", address]) == 0
    lines = [one.line() for one in tlopt.predict(tiny, images[0].parent)]
    assert capsys.readouterr().out.splitlines() == lines[:count]
    assert Server.asked == -(-count // 2)


@pytest.mark.parametrize("batch", [0, 2])
def test_the_example_of_the_readme_works_as_it_is_written(made, client, tiny, images, capsys, monkeypatch, batch):
    text = (made[batch] / "README.md").read_text()
    (code,) = re.findall(r"^    import numpy.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    compiled = openvino.Core().compile_model(made[batch] / "birds_1.0/1/model.xml", "CPU")

    class Input:
        def __init__(self, name, shape, kind):
            self.name, self.shape = name, shape
            assert kind == "UINT8"

        def set_data_from_numpy(self, values):
            assert values.shape == tuple(self.shape)
            self.values = values

    class Client:
        def __init__(self, address):
            assert address == "localhost:9000"

        def infer(self, name, inputs):
            assert name == "birds_1.0"
            found = compiled({one.name: one.values for one in inputs})
            return types.SimpleNamespace(as_numpy=lambda name: found[name])

    library = types.ModuleType("tritonclient.grpc")
    library.InferInput, library.InferenceServerClient = Input, Client
    monkeypatch.setitem(sys.modules, "tritonclient", types.SimpleNamespace(grpc=library))
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", library)
    client(made[batch])  # which finds decoding.py beside it
    images[0].rename(images[0].with_name("image.png"))
    monkeypatch.chdir(images[0].parent)
    exec(textwrap.dedent(code).replace("image.jpg", "image.png"), {})
    (wanted,) = tlopt.predict(tiny, Path("image.png"))
    assert f"{max(wanted.probabilities):.3f}"[:4] in capsys.readouterr().out


def test_what_is_no_image_is_left_out_and_the_others_are_answered(made, client, model, images, capsys):
    images[1].write_text("hello")
    for batch in (0, 2):
        address = model(made[batch])
        assert client(made[batch]).main([*map(str, images), "--url", address]) == 1
        said = capsys.readouterr()
        assert [line.partition("\t")[0] for line in said.out.splitlines()] == [str(images[0]), str(images[2])]
        assert re.fullmatch(r"left out: .*reference-\d.\w+ cannot be read as an image: .*\n", said.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--top", "0"], ["--top", "-3"], ["--top", "nan"], ["--url", "localhost:8000"], ["--url", "file:///etc"],
        ["--url", "http://"], ["--url", "http://[::1"], ["--url", "http://localhost:many"], ["--url", ""],
    ],
)  # fmt: skip
def test_it_refuses_what_makes_no_sense(made, client, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        client(made[0]).main(["image.png", *arguments])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {arguments[0]}" in said
    assert "usage" in said


def test_its_help_says_what_its_exit_codes_mean(made, client, capsys):
    with pytest.raises(SystemExit):
        client(made[0]).main(["--help"])
    assert "Exit code: 0" in capsys.readouterr().out


def test_a_class_is_named_once_however_many_are_asked_for(made, client, model, images, capsys):
    assert client(made[0]).main([str(images[0]), "--url", model(made[0]), "--top", "99"]) == 0
    assert len(re.findall(r" \d\.\d{3}", capsys.readouterr().out)) == len(CLASSES)


def output(**changes):
    """Return the answer about one image, with some of its fields changed."""
    return json.dumps({"outputs": [{"name": "x", "datatype": "FP32", "shape": [1, 5], "data": [0] * 5, **changes}]})


BINARY = '{"outputs": [{"name": "x", "datatype": "FP32", "shape": [1, 5]}]}'


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"status": 404, "body": "<html>\n<b>none</b>"}, r"refuses the request \(404\): <html> <b>none</b>$"),
        ({"status": 500, "body": ""}, r"refuses the request \(500\): Internal Server Error$"),
        ({"status": 503, "body": "\x1b[2J" + "x" * 999}, r"\(503\): \\x1b\[2Jx{100,200}$"),
        ({"body": "<html>"}, "answers otherwise than the protocol says"),
        ({"body": ""}, "answers otherwise"),
        ({"body": b"\xff"}, "answers otherwise"),
        ({"body": "[" * 100_000}, "answers otherwise"),
        ({"body": "[]"}, "answers otherwise"),
        ({"body": "{}"}, "answers otherwise"),
        ({"body": '{"outputs": []}'}, "answers otherwise"),
        ({"body": '{"outputs": [1]}'}, "answers otherwise"),
        ({"body": '{"outputs": 1}'}, "answers otherwise"),
        ({"body": output(shape="all")}, "answers otherwise"),
        ({"body": output(shape=[1, 4])}, "answers otherwise"),
        ({"body": output(data=["one"] * 5)}, "answers otherwise"),
        ({"body": output(data=[None] * 5)}, "answers otherwise|not finite"),
        ({"body": output(data=[10**400] * 5)}, "answers otherwise|not finite"),
        ({"body": output(data=[[0], [0, 1]])}, "answers otherwise"),
        ({"body": output(data=[0] * 4, shape=[1, 4])}, r"shape \(1, 4\).* 1 image of 5 classes"),
        ({"body": output(data=[0] * 10, shape=[2, 5])}, r"shape \(2, 5\).* 1 image of 5 classes"),
        ({"body": output(shape=[5])}, r"shape \(5,\)"),
        ({"body": output(data=[0, 0, 0, 0, float("nan")])}, "not finite"),
        ({"body": output(data=[0, 0, 0, 0, 1e300])}, "not finite"),
        ({"body": BINARY + "\0" * 19, "headers_sent": {"Inference-Header-Content-Length": len(BINARY)}}, "otherwise"),
        ({"body": BINARY + "\0" * 20, "headers_sent": {"Inference-Header-Content-Length": "all"}}, "otherwise"),
        ({"body": BINARY + "\0" * 20, "headers_sent": {"Inference-Header-Content-Length": -5}}, "otherwise"),
        (
            {
                "body": BINARY.replace("FP32", "INT32") + "\0" * 20,
                "headers_sent": {"Inference-Header-Content-Length": len(BINARY) + 1},
            },
            "INT32",
        ),
        ({"body": "{", "headers_sent": {"Content-Length": 9}}, "answers otherwise"),
        ({"raw": b"\x00\x00\x12\x04 not of HTTP\r\n"}, "does not answer: "),
        ({"raw": b"HTTP/1.1 500 no\r\nContent-Length: 9\r\n\r\nx"}, r"refuses the request \(500\): x$"),
    ],
)
def test_an_odd_reply_of_the_server_is_one_error(made, client, serve, images, capsys, monkeypatch, told, message):
    for name, value in told.items():
        monkeypatch.setattr(Odd, name, value.encode() if isinstance(value, str) else value)
    assert client(made[0]).main([str(images[0]), "--url", serve(Odd)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert re.search(message, line)
    assert len(line) < 400


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(made, client, model, images, capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # where nobody answers
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    address = model(made[0])
    for url in (address, address.replace("127.0.0.1", "localhost")):
        assert client(made[0]).main([str(images[0]), "--url", url]) == 0
    assert client(made[0]).main([str(images[0]), "--url", "http://elsewhere.invalid:8000"]) == 1
    assert " does not answer: " in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1:1", "a b", "x" * 70, "ü\u2028"])
def test_a_server_that_cannot_be_reached_is_one_error(made, client, images, capsys, monkeypatch, host):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 1))])
    assert client(made[0]).main([str(images[0]), "--url", f"http://{host}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert " does not answer: " in line


@pytest.mark.parametrize(
    ("name", "content"),
    [("client.json", None), ("client.json", "{"), ("client.json", "[]"), ("client.json", "{}"), ("labels.txt", None)],
)
def test_a_file_that_is_missing_or_damaged_is_one_error(made, client, tmp_path, capsys, name, content):
    copied = Path(shutil.copytree(made[0], tmp_path / "copied"))
    (copied / name).unlink() if content is None else (copied / name).write_text(content)
    assert client(copied).main(["image.png"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert re.search(r"copied cannot be used: .*\. Unpack it again, or make it again\.$", line)


def run(folder, *arguments, **options):
    """Run the client in a process of its own."""
    return subprocess.run(
        [sys.executable, "-B", folder / "client.py", *arguments],
        **{"capture_output": True, "check": False, **options},
    )


def test_names_that_an_output_cannot_hold_are_shown_escaped_as_predict_shows_them(made, model, tiny, images):
    images[0].rename(images[0].with_name(os.fsdecode(b"\xff\n.png")))
    files, address = sorted(images[0].parent.iterdir()), model(made[0])
    done = run(made[0], *files, "--url", address, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    lines = [one.line() for one in tlopt.predict(tiny, images[0].parent)]
    assert done.stdout.decode().splitlines() == [line.encode("ascii", "backslashreplace").decode() for line in lines]
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_one_error_and_a_reader_that_has_gone_is_none(made, model, images):
    address = model(made[0])
    with open("/dev/full", "wb") as full:
        done = run(made[0], *images, "--url", address, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.decode()) == (1, "No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as gone:
        done = run(made[0], *images, "--url", address, capture_output=False, stdout=gone, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_libraries_that_are_missing_are_one_error(made, tmp_path):
    done = subprocess.run(
        [sys.executable, "-B", "-S", made[0] / "client.py", "image.png"],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "No module named 'numpy'. Install what this needs: python -m pip install numpy pillow\n"
