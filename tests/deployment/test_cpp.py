import json
import os
import resource
import struct
import subprocess
import zlib
from dataclasses import replace

import numpy as np
import pytest
from cpp_programs import job, program, said
from PIL import Image
from tiny_engine import write_engine

import tlopt
from benchmarks.odd_images import GREY, INDEXED, RGB, exif, odd_images, png
from tlopt.artifact import Artifact, seal
from tlopt.backends import open_runner
from tlopt.deployment.cpp import building
from tlopt.deployment.cpp.parameters import parameters
from tlopt.deployment.cpp.program import numbers, pictures
from tlopt.deployment.targets import cpp
from tlopt.environment import MOST_THREADS
from tlopt.errors import CheckError, StageError
from tlopt.preprocess import Preprocess, to_rgb, upright
from tlopt.publishing import draft
from tlopt.reading.image_files import read_image
from tlopt.reading.names import shown_name

# One of the odd images has EXIF data that Pillow complains of.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Corrupt EXIF")]


@pytest.fixture(scope="module")
def classify(tmp_path_factory):
    """The program with OpenVINO."""
    return program(tmp_path_factory, "openvino")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Odd images, small enough for a test: path -> whether every decoder gives the same pixels."""
    folder = tmp_path_factory.mktemp("odd")
    found = {}
    for image in odd_images(96, seed=1, largest=420):
        (folder / image.name).write_bytes(image.content)
        found[folder / image.name] = image.lossless
    return found


@pytest.fixture(scope="module")
def deployed(exported, tmp_path_factory):
    """The tiny network's project."""
    folder = tmp_path_factory.mktemp("deployed")
    cpp.write(job(exported, "openvino"), folder)
    return folder


def written(exported, folder, preprocess):
    """Write a model folder that feeds images in some way; its network is none."""
    artifact = Artifact(path=exported.path, card=replace(exported.card, preprocess=preprocess))
    folder.mkdir(exist_ok=True)
    (folder / "parameters.txt").write_text(parameters(job(artifact, "openvino"), "model.onnx"))
    (folder / "labels.txt").write_text("a\n")
    return folder


def resaved(exported, folder, **changes):
    """Return the network with another card; its graph is the same."""
    with draft(folder, force=True) as scratch:
        (scratch / "model.onnx").write_bytes(exported.payload(".onnx").read_bytes())
        seal(scratch, replace(exported.card, **changes))
    return Artifact.load(folder)


def decoded(path):
    return to_rgb(upright(read_image(path)))


def test_odd_images_are_decoded_to_the_pixels_that_tlopt_decodes(classify, odd):
    code, content, errors = said(classify, "--decoded", *odd)
    assert (code, errors) == (0, "")
    found = pictures(content)
    same = {path: np.array_equal(decoded(path), image) for path, image in zip(odd, found, strict=True)}
    assert not [path.name for path, lossless in odd.items() if lossless and not same[path]]
    # Of JPEG, another version of the decoder may round otherwise.
    for path, image in zip(odd, found, strict=True):
        assert np.abs(np.asarray(decoded(path), int) - image).mean() < 1, path.name


@pytest.mark.parametrize(
    ("interpolation", "size", "crop_ratio"),
    [("bilinear", 32, 0.875), ("bicubic", 45, 0.9), ("lanczos", 24, 1.0), ("nearest", 50, 0.95), ("bicubic", 300, 1.0)],
)
def test_resized_pixels_are_pillows_to_the_bit(classify, odd, exported, tmp_path, interpolation, size, crop_ratio):
    preprocess = Preprocess(size=size, crop_ratio=crop_ratio, interpolation=interpolation)
    images = list(odd) if size < 100 else list(odd)[::4]
    raw = pictures(said(classify, "--decoded", *images)[1])
    model = written(exported, tmp_path / "model", preprocess)
    code, content, errors = said(classify, "--model", model, "--pixels", *images)
    assert (code, errors) == (0, "")
    found = pictures(content)
    # Beside the program's own decoding, so that this holds whatever decoder it was built with.
    wrong = [
        path.name
        for path, image, pixels in zip(images, raw, found, strict=True)
        if not np.array_equal(preprocess.pixels(Image.fromarray(image)), pixels)
    ]
    assert not wrong


def test_answers_are_those_of_predict(classify, odd, exported, deployed):
    images = list(odd)
    code, content, errors = said(classify, "--model", deployed / "model", "--threads", "1", "--numbers", *images)
    assert (code, errors) == (0, "")
    found = numbers(content)
    inputs = np.stack([exported.card.preprocess(path) for path in images])
    with open_runner(exported, "openvino", threads=1) as runner:
        wanted = np.concatenate([runner(one[None]) for one in inputs])
    exact = np.array(list(odd.values()))
    np.testing.assert_allclose(found[exact], wanted[exact], atol=1e-4)
    text = said(classify, "--model", deployed / "model", "--top", "1", "--json", *images)[1].decode()
    best = [json.loads(line)["top"][0]["class"] for line in text.splitlines()]
    folder = images[0].parent
    told = {p.file: p.classes[0] for p in tlopt.predict(exported, folder, backend="openvino", threads=1)}
    assert best == [told[str(path)] for path in images]


@pytest.mark.parametrize("answers", ["logits", "probabilities", "log_probabilities", "sigmoids"])
def test_probabilities_are_those_of_predict(classify, odd, exported, tmp_path, answers):
    artifact = resaved(
        exported, tmp_path / "artifact", details=replace(exported.card.onnx, answers=answers), classes=("b", "a", 'c"é')
    )
    cpp.write(job(artifact, "openvino"), tmp_path / "out")
    image = next(iter(odd))
    code, content, _ = said(classify, "--model", tmp_path / "out" / "model", "--json", image)
    (wanted,) = tlopt.predict(artifact, image, backend="openvino", threads=1)
    found = json.loads(content)
    assert code == 0
    assert found["file"] == str(image)
    assert [entry["class"] for entry in found["top"]] == list(wanted.classes)
    np.testing.assert_allclose([entry["probability"] for entry in found["top"]], wanted.probabilities, atol=2e-6)
    text = said(classify, "--model", tmp_path / "out" / "model", "--top", "2", image)[1].decode()
    assert text == replace(wanted, classes=wanted.classes[:2], probabilities=wanted.probabilities[:2]).line() + "\n"


@pytest.mark.parametrize("changes", [{"layout": "nhwc"}, {"channels": "bgr"}, {"folded": True}])
def test_inputs_are_laid_out_as_the_network_takes_them(stand_in, odd, exported, tmp_path, changes):
    preprocess = Preprocess(size=12, mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.5), **changes)
    _engine(tmp_path, preprocess, batches=(1, 4))
    images = [path for path, lossless in odd.items() if lossless][:12]
    code, content, errors = said(stand_in, "--model", tmp_path / "model", "--numbers", *images)
    assert (code, errors) == (0, "")
    wanted = np.stack([preprocess(path).ravel()[:: 12 * 12 * 3 // 5][:5] for path in images])
    np.testing.assert_array_equal(numbers(content), wanted.astype(np.float32))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """The program with the stand-in for TensorRT."""
    return program(tmp_path_factory, "tensorrt")


def _engine(folder, preprocess, *, batches, output="float32", code=""):
    """Write a deployed engine of the stand-in, whose plan is a text."""
    least, most = batches
    artifact = write_engine(
        folder / "engine",
        profile={"min_batch": least, "opt_batch": most, "max_batch": most, "shape": list(preprocess.input_shape)},
        options={"version_compatible": bool(code)},
    )
    artifact = Artifact(path=artifact.path, card=replace(artifact.card, preprocess=preprocess, classes=tuple("abcde")))
    cpp.write(job(artifact, "tensorrt"), folder)
    dtype = preprocess.input_dtype.name
    shape = " ".join(map(str, preprocess.input_shape))
    (folder / "model" / "model.engine").write_text(f"plan {dtype} {output} {least} {most} 5 {shape} {code}\n")


@pytest.mark.parametrize("output", ["float32", "float16"])
def test_an_engine_runs_with_its_smallest_batch(stand_in, odd, tmp_path, output):
    _engine(tmp_path, Preprocess(size=8, mean=(0, 0, 0), std=(1, 1, 1)), batches=(2, 4), output=output, code="code")
    image = next(iter(odd))
    code, content, errors = said(stand_in, "--model", tmp_path / "model", "--numbers", image)
    assert (code, errors) == (0, "")
    wanted = Preprocess(size=8, mean=(0, 0, 0), std=(1, 1, 1))(image).ravel()[:: 192 // 5][:5]
    np.testing.assert_allclose(numbers(content)[0], wanted, rtol=5e-4 if output == "float16" else 0)


@pytest.mark.parametrize(
    "call",
    [
        "createExecutionContext", "setInputShape", "getTensorShape", "setTensorAddress", "enqueueV3", "cudaMalloc",
        "cudaMemcpyAsync", "cudaStreamSynchronize",
    ],
)  # fmt: skip
def test_every_call_that_fails_is_one_error(stand_in, odd, tmp_path, call):
    _engine(tmp_path, Preprocess(size=8), batches=(1, 4))
    file = tmp_path / "model" / "model.engine"
    file.write_text(f"{file.read_text().strip()} refuses {call}\n")
    code, content, errors = said(stand_in, "--model", tmp_path / "model", next(iter(odd)))
    assert (code, content, errors.count("\n")) == (1, b"", 1)
    assert errors.startswith("Error: ")


def test_an_engine_for_other_images_than_its_parameters_say_is_one_error(stand_in, odd, tmp_path):
    _engine(tmp_path, Preprocess(size=8), batches=(1, 4))
    file = tmp_path / "model" / "model.engine"
    file.write_text("plan float32 float32 1 4 5 3 4000 4000\n")
    code, content, errors = said(stand_in, "--model", tmp_path / "model", next(iter(odd)))
    assert (code, content, errors.count("\n")) == (1, b"", 1)
    assert "takes other images" in errors


def test_an_engine_that_is_gone_is_one_error(stand_in, odd, tmp_path):
    _engine(tmp_path, Preprocess(size=8), batches=(1, 4))
    (tmp_path / "model" / "model.engine").unlink()
    code, _, errors = said(stand_in, "--model", tmp_path / "model", next(iter(odd)))
    assert (code, errors) == (1, f"Error: {tmp_path}/model/model.engine cannot be used: it cannot be opened.\n")


def test_an_engine_that_is_none_is_one_error(stand_in, odd, tmp_path):
    _engine(tmp_path, Preprocess(size=8), batches=(1, 4))
    (tmp_path / "model" / "model.engine").write_text("nonsense")
    code, content, errors = said(stand_in, "--model", tmp_path / "model", next(iter(odd)))
    assert (code, content) == (1, b"")
    assert "TensorRT cannot open the engine" in errors


def test_onnxruntime_answers_alike(tmp_path_factory, odd, exported, deployed):
    classify = program(tmp_path_factory, "onnxruntime")
    images = [path for path, lossless in odd.items() if lossless]
    code, content, errors = said(classify, "--model", deployed / "model", "--threads", "1", "--numbers", *images)
    assert (code, errors) == (0, "")
    with open_runner(exported, "onnxruntime", threads=1) as runner:
        wanted = np.concatenate([runner(exported.card.preprocess(path)[None]) for path in images])
    np.testing.assert_allclose(numbers(content), wanted, atol=1e-4)


# Pillow's ways with single files


@pytest.mark.parametrize("kind", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("orientation", [0, 1, 3, 6, 8, 9])
def test_orientation_is_read_from_every_type_of_entry(classify, tmp_path, kind, orientation):
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    path = tmp_path / "image.png"
    path.write_bytes(png(pixels, color=RGB, depth=8, chunks=((b"eXIf", exif(orientation, kind=kind)),)))
    (found,) = pictures(said(classify, "--decoded", path)[1])
    np.testing.assert_array_equal(found, decoded(path))


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_what_pillow_makes_of_it(classify, tmp_path, depth, opaque):
    most = 2**depth - 1
    pixels = np.linspace(0, most, 16).round().astype(np.uint16).reshape(4, 4, 1)
    path = tmp_path / "image.png"
    path.write_bytes(png(pixels, color=GREY, depth=depth, transparent=struct.pack(">H", most * opaque)))
    (found,) = pictures(said(classify, "--decoded", path)[1])
    np.testing.assert_array_equal(found, decoded(path))


def test_colors_beyond_the_palette_are_what_pillow_makes_of_them(classify, tmp_path):
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    palette = np.arange(30, dtype=np.uint8).reshape(10, 3)
    path = tmp_path / "image.png"
    path.write_bytes(png(pixels, color=INDEXED, depth=4, palette=palette))
    (found,) = pictures(said(classify, "--decoded", path)[1])
    np.testing.assert_array_equal(found, decoded(path))


# Bad input


def test_each_file_that_is_no_image_is_one_error_and_the_others_go_on(classify, odd, deployed, tmp_path):
    jpeg = next(path for path, lossless in odd.items() if not lossless).read_bytes()
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, RGB, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    contents = {
        "empty.jpg": b"", "text.png": b"no image", "truncated.jpg": jpeg[: len(jpeg) // 2], "bomb.png": bomb,
        "head.jpg": jpeg[:30], "magic.png": bomb[:8], "header.jpg": jpeg[:3],
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    good = next(iter(odd))
    bad = [*(tmp_path / name for name in contents), tmp_path / "missing.png", tmp_path / "folder.png"]
    code, content, errors = said(classify, "--model", deployed / "model", *bad, good)
    assert code == 1
    assert len(content.splitlines()) == 1
    lines = errors.splitlines()
    assert len(lines) == len(bad)
    for path, line in zip(bad, lines, strict=True):
        assert line.startswith(f"Error: {path} cannot be read as an image: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name an image."),
        (["--size", "3", "a.png"], "There is no option --size."),
        (["--top", "0", "a.png"], "--top takes a whole number from 1 to 1000000, got 0."),
        (["--threads", "many", "a.png"], "--threads takes a whole number"),
        (["--threads", str(MOST_THREADS + 1), "a.png"], f"from 0 to {MOST_THREADS}, got {MOST_THREADS + 1}."),
        (["a.png", "--model"], "--model needs a value."),
    ],
)
def test_a_wrong_command_line_is_one_error(classify, arguments, message):
    code, content, errors = said(classify, *arguments)
    assert (code, content) == (2, b"")
    assert message in errors


@pytest.mark.parametrize("show", [[], ["--json"], ["--numbers"], ["--pixels"], ["--decoded"], ["--help"]])
@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("output", ["full", "gone", "closed"])
def test_an_output_that_cannot_be_written_is_one_error(classify, odd, deployed, show, count, output):
    command = [classify, "--model", deployed / "model", *show, *list(odd)[:count]]
    if output == "closed":
        done = subprocess.run(
            ["sh", "-c", 'exec "$0" "$@" >&-', *command], stderr=subprocess.PIPE, text=True, check=False
        )
    elif output == "full":
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as gone:
            done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, check=False)
    reason = {"full": "No space left on device", "gone": "Broken pipe", "closed": "Bad file descriptor"}[output]
    assert (done.returncode, done.stderr) == (1, f"Error: The output cannot be written: {reason}.\n")


def test_a_pipe_is_no_image_and_nobody_waits_for_it(classify, odd, deployed, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    done = subprocess.run(
        [classify, "--model", deployed / "model", tmp_path / "pipe.png", next(iter(odd))],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path}/pipe.png cannot be read as an image: it is no file.\n"
    assert len(done.stdout.splitlines()) == 1


def test_a_name_of_several_lines_is_shown_on_one(classify, odd, deployed, tmp_path):
    (tmp_path / "a\nb\x1b.png").write_text("no image")
    code, _, errors = said(classify, "--model", deployed / "model", tmp_path / "a\nb\x1b.png")
    assert (code, errors.count("\n")) == (1, 1)
    assert "a\\x0ab\\x1b.png cannot be read" in errors


def test_odd_names_are_shown_as_predict_shows_them(classify, odd, deployed, tmp_path):
    good = next(path for path, lossless in odd.items() if lossless).read_bytes()
    names = [
        b"\xff", b"\xc3", b"\xed\xb3\xbf", b"\xf5\x80\x80\x80", b"\xc0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80",
        *(name.encode() for name in ("\"\\", "ö€😀", "\x7f\x80\x9f\xa0", "\u2028\u202e\u202f", "\u2066\ufffe\ufffd")),
    ]  # fmt: skip
    files = [tmp_path / os.fsdecode(name + b".png") for name in names]
    for file in files:
        file.write_bytes(good)
    run = [classify, "--model", deployed / "model"]
    as_json = subprocess.run([*run, "--json", *files], capture_output=True, check=True).stdout.decode()
    assert [json.loads(line)["file"] for line in as_json.split("\n")[:-1]] == [str(file) for file in files]
    text = subprocess.run([*run, *files], capture_output=True, check=True).stdout.decode()
    assert [line.partition("\t")[0] for line in text.split("\n")[:-1]] == [shown_name(file) for file in files]


def _names(text):
    return [line.split()[0] for line in text.splitlines() if not line.startswith("#")]


def _without(text, name):
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(f"{name} "))


def test_damaged_parameters_are_one_error(classify, odd, deployed, tmp_path):
    good = (deployed / "model" / "parameters.txt").read_text()
    for text, message in [
        (good + "colour 3\n", "does not know the parameter colour"),
        (good.replace("bilinear", "fine"), "interpolation"),
        (good.replace("size 32", "size many"), "size: its value cannot be read"),
        ("size 32\n", "is not complete"),
        *((_without(good, name), f"is not complete: it lacks {name}") for name in _names(good)),
        (good + "size 32\n", "size: it is there twice"),
        (good.replace("size 32", "size 32.5"), "size: its value cannot be read"),
        (good.replace("side ", "side 2147483647\n# "), "side has to be at least size, and at most"),
        (good.replace("size 32", "size 0"), "size: it has to be at least 1"),
        (good.replace("batch 1", "batch -1"), "batch: it has to be at least 1"),
    ]:
        (tmp_path / "parameters.txt").write_text(text)
        (tmp_path / "labels.txt").write_text("a\n")
        code, content, errors = said(classify, "--model", tmp_path, next(iter(odd)))
        assert (code, content, errors.count("\n")) == (1, b"", 1)
        assert message in errors
    code, _, errors = said(classify, "--model", tmp_path / "nowhere", next(iter(odd)))
    assert (code, errors) == (1, f"Error: {tmp_path / 'nowhere'}/parameters.txt cannot be opened.\n")


def test_a_picture_that_does_not_fit_into_memory_is_one_error(classify, odd, exported, tmp_path):
    model = written(exported, tmp_path, Preprocess(size=16384))
    limit = 16384 * 16384 * 3  # bytes of the picture alone
    done = subprocess.run(
        [classify, "--model", model, "--pixels", next(iter(odd))], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {next(iter(odd))}: there is not enough memory.\n"


def test_other_labels_than_answers_are_an_error(classify, odd, deployed, tmp_path):
    for file in (deployed / "model").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "labels.txt").write_text("a\nb\n")
    code, _, errors = said(classify, "--model", tmp_path, next(iter(odd)))
    assert code == 1
    assert "gives 3 numbers for 2 classes" in errors


# The target


def test_check_finds_other_pixels_and_other_answers(classify, exported, tmp_path, monkeypatch):
    wanted = job(exported, "openvino")
    monkeypatch.setattr(building, "build", lambda *_: classify)  # what it compiles is the same
    cpp.write(wanted, tmp_path / "out")
    found = cpp.check(wanted, tmp_path / "out")
    assert found.images == 6
    assert found.agreement == 1
    assert found.difference < 1e-4
    file = tmp_path / "out" / "model" / "parameters.txt"
    text = file.read_text()
    file.write_text(text.replace("bilinear", "nearest"))
    with pytest.raises(CheckError, match="other pixels"):
        cpp.check(wanted, tmp_path / "out")
    file.write_text(text.replace("scale ", "scale 9 9 9\n# "))
    with pytest.raises(CheckError, match="answers otherwise"):
        cpp.check(wanted, tmp_path / "out")


def test_a_project_that_does_not_build_is_one_error(classify, exported, tmp_path):
    cpp.write(job(exported, "openvino"), tmp_path / "out")
    (tmp_path / "out" / "src" / "runtimes" / "openvino.cpp").write_text("nonsense;")
    with pytest.raises(StageError, match=r"does not build here: .*error: "):
        cpp.check(job(exported, "openvino"), tmp_path / "out")
