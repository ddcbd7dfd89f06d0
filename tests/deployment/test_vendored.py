"""decoding.py against what it was made from."""

from __future__ import annotations

import ast
import io
import sys
import types

import numpy as np
import pytest
from brightest import CLASSES, write_onnx
from PIL import Image
from tiny_engine import write_engine

from tlopt import judging
from tlopt.deployment import vendored
from tlopt.deployment.excerpt import excerpt
from tlopt.deployment.job import Job
from tlopt.errors import ArtifactError, ImagesError, MissingLibraryError
from tlopt.preprocess import Preprocess
from tlopt.reading.image_files import read_image


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    artifact = write_onnx(tmp_path_factory.mktemp("tiny") / "tiny")
    return Job(artifacts=(artifact,), target="bundle", name="tiny", backend="onnxruntime", input="image", max_batch=8)


@pytest.fixture(scope="module")
def alone(job):
    """decoding.py, run where there is no tlopt."""
    module, text = types.ModuleType("decoding"), vendored.decoding(job, *vendored.FOR_PROGRAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "decoding", module)  # where dataclasses look for it
        with pytest.MonkeyPatch.context() as without:
            for name in [name for name in sys.modules if name.partition(".")[0] == "tlopt"]:
                without.setitem(sys.modules, name, None)
            exec(compile(text, "decoding.py", "exec"), module.__dict__)
        yield module


def test_it_imports_numpy_pillow_and_the_standard_library_alone(job):
    tree = ast.parse(vendored.decoding(job, *vendored.FOR_PROGRAMS))
    names = {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert names - sys.stdlib_module_names == {"numpy", "PIL"}
    assert not any(isinstance(node, ast.Name) and node.id == "files" for node in ast.walk(tree))


def test_every_name_in_it_is_defined(alone, job):
    tree = ast.parse(vendored.decoding(job, *vendored.FOR_PROGRAMS))
    loaded = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    bound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.name}
    assert loaded - bound <= set(vars(alone)) | set(dir(__builtins__)) | set(vars(alone)["__builtins__"])


def test_its_preprocess_is_the_artifacts(alone, job):
    assert alone.PREPROCESS.to_dict() == job.preprocess.to_dict()
    assert alone.ANSWERS == "logits"


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pictures():
    """Yield image files of every mode, orientation and shape that preprocessing tells apart."""
    random = np.random.default_rng(0)
    rgb = Image.fromarray(random.integers(0, 256, (37, 53, 3), dtype=np.uint8))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        yield mode, encoded(rgb.convert(mode), "PNG")
    yield "I;16", encoded(Image.fromarray(random.integers(0, 65536, (20, 30), dtype=np.uint16)), "PNG")
    yield "F", encoded(Image.fromarray(random.random((20, 30), dtype=np.float32)), "TIFF")
    yield "CMYK", encoded(rgb.convert("CMYK"), "JPEG")
    yield "YCbCr", encoded(rgb, "JPEG", quality=70)
    yield "transparent", encoded(rgb.convert("P"), "PNG", transparency=3)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield f"turned {turn}", encoded(rgb, "JPEG", exif=exif)
    for width, height in ((1, 1), (1, 300), (300, 1), (16, 16), (17, 18), (400, 15), (250, 251)):
        yield f"{width} x {height}", encoded(rgb.resize((width, height)), "PNG")


FILES = dict(pictures())


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("name", FILES)
def test_its_pixels_and_inputs_are_those_of_tlopt(alone, name, interpolation):
    fields = {"size": 24, "crop_ratio": 0.9, "interpolation": interpolation, "channels": "bgr"}
    ours, theirs = Preprocess(**fields), alone.Preprocess(**fields)
    image = read_image(io.BytesIO(FILES[name]))
    again = alone.read_image(io.BytesIO(FILES[name]))
    np.testing.assert_array_equal(theirs.pixels(again), ours.pixels(image))
    np.testing.assert_array_equal(theirs(again), ours(image))


def test_it_refuses_what_tlopt_refuses_with_the_same_words(alone, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(FILES["YCbCr"][:400])
    for name in ("text.jpg", "cut.jpg", "none.jpg", "."):
        with pytest.raises(ImagesError) as ours:
            read_image(tmp_path / name)
        with pytest.raises(alone.ImagesError) as theirs:
            alone.read_image(tmp_path / name)
        assert str(theirs.value) == str(ours.value)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "log_probabilities", "sigmoids"])
def test_its_probabilities_are_those_of_tlopt(alone, kind):
    answers = np.random.default_rng(0).random((3, 5), dtype=np.float32)
    np.testing.assert_array_equal(alone.probabilities(answers, kind), judging.probabilities(answers, kind))


def test_an_excerpt_has_what_a_name_needs_and_nothing_else():
    text = excerpt([("tlopt.judging", "noise")])
    assert "def noise" in text
    assert "def softmax" not in text
    assert text.startswith("from __future__ import annotations\n\nimport numpy as np\n")


def test_labels_are_a_line_each_in_the_order_of_the_logits(tmp_path):
    vendored.write_labels(tmp_path, CLASSES)
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)


def test_classes_without_names_that_fit_on_a_line_are_refused(job, tmp_path):
    one = write_onnx(tmp_path / "one", classes=("a\nb", "c", "d", "e", "f"))
    with pytest.raises(ImagesError, match="holds the control character"):
        vendored.check_labels(Job(**{**vars(job), "artifacts": (one,)}))
    from dataclasses import replace

    none = replace(one, card=replace(one.card, classes=()))
    with pytest.raises(ArtifactError, match="names no classes") as caught:
        vendored.check_labels(Job(**{**vars(job), "artifacts": (none,)}))
    assert "--classes" in caught.value.hint


def test_requirements_are_the_versions_that_are_installed():
    assert vendored.requirements("numpy", "a==1") == f"numpy=={np.__version__}\na==1\n"
    with pytest.raises(MissingLibraryError, match="no-such-thing is not installed"):
        vendored.requirements("no-such-thing")


def test_an_engine_of_another_gpu_cannot_answer_here(tmp_path, monkeypatch):
    from tlopt import backends
    from tlopt.deployment import reference
    from tlopt.deployment.job import Job
    from tlopt.engine.running import opening

    engine = write_engine(tmp_path / "engine")
    job = Job(artifacts=(engine,), target="bundle", name="a", backend="tensorrt", input="image", max_batch=2)
    monkeypatch.setattr(backends.load("tensorrt"), "problem", lambda _: "")
    monkeypatch.setattr(opening, "gpu", lambda: None)
    assert "runs on an NVIDIA GPU only" in reference.problem(job)
