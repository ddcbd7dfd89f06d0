"""Where the server is looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tlopt.deployment.serving import environment
from tlopt.errors import MissingLibraryError


def make_environment(folder: Path, *, python: str = "3.11", server: bool = True, stub: bool = True) -> Path:
    """Make a folder like that of an environment with the server."""
    packages = folder / "lib" / f"python{python}" / "site-packages"
    wheel = packages / "pytriton" / "tritonserver"
    for file, wanted in (
        (folder / "bin" / "python", True),
        (wheel / "bin" / "tritonserver", server),
        (wheel / "python_backend_stubs" / python / "triton_python_backend_stub", stub),
        (wheel / "backends" / "python" / "libtriton_python.so", server),
        (packages / "tritonclient-2.51.0.dist-info" / "METADATA", True),
    ):
        if wanted:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("")
    return folder


def test_the_usual_place_is_in_the_environment_of_tlopt(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    make_environment(tmp_path / "serve")
    found = environment.find()
    assert found.folder == tmp_path / "serve"
    assert found.tritonserver.is_file()
    assert found.stub.is_file()
    assert found.version("tritonclient") == "2.51.0"
    assert found.version("onnxruntime") == ""
    assert environment.problem() == ""


def test_nothing_is_taken_from_the_current_folder_path_or_variables(monkeypatch, tmp_path):
    here = make_environment(tmp_path / "here" / "serve")
    monkeypatch.chdir(here.parent)
    monkeypatch.setenv("PATH", str(here / "bin"))
    monkeypatch.setenv("VIRTUAL_ENV", str(here))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    with pytest.raises(MissingLibraryError, match="not there"):
        environment.find()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, "no Python environment in"),
        ({"server": False}, "holds no tritonserver"),
        ({"python": "3.13", "stub": False}, "runs no models in Python 3.13"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_brings_it(tmp_path, made, said):
    place = tmp_path / "a place"
    if made is not None:
        make_environment(place, **made)
    with pytest.raises(MissingLibraryError, match=said) as caught:
        environment.find(place)
    assert "nvidia-pytriton" in caught.value.hint or "Python 3.8 to 3.12" in caught.value.hint
    assert environment.problem(place).startswith(caught.value.message)


def test_the_command_quotes_a_place_with_a_space():
    command = environment.installing(Path("/a b"))
    assert "-m venv '/a b' && '/a b/bin/python' -m pip install nvidia-pytriton==" in command
