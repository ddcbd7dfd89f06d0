import os
import subprocess
import sys
from pathlib import Path

import pytest

import tlopt
from tlopt.process import children


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A current folder that holds modules of the names of those that every program imports."""
    for name in ("numpy.py", "json.py", "runpy.py", "tlopt/__init__.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("open('PWNED', 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_process_of_ours_imports_nothing_from_the_current_folder(foreign, exported):
    bench = tlopt.bench([exported], batch=(1,), seconds=0.01)
    assert bench.rows[0]["host_mb"] is not None
    assert not (foreign / "PWNED").exists()


def test_the_current_folder_is_passed_on_only_if_it_was_asked_for(foreign, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", str(foreign), "/elsewhere"])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert children.search_path() == ["/elsewhere"]
    monkeypatch.setenv("PYTHONPATH", str(foreign))
    assert children.search_path() == [str(foreign), "/elsewhere"]


def test_a_process_of_ours_runs_this_tlopt_wherever_it_is(foreign, monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys, "path", [entry for entry in sys.path if entry not in ("", str(Path(tlopt.__file__).parents[1]))]
    )
    *start, told = children.command("tlopt.doctor")
    code = start.pop() + "import tlopt; print(tlopt.__file__)"
    done = subprocess.run([*start, code, told], capture_output=True, text=True, check=True, env=children.environment())
    assert done.stdout.split() == [tlopt.__file__]


def test_the_processes_that_it_starts_pass_the_folder_over_as_well():
    assert children.environment()["PYTHONSAFEPATH"] == "1"
    assert "PYTHONSAFEPATH" not in os.environ or os.environ["PYTHONSAFEPATH"] == "1"


def test_python_m_tlopt_imports_nothing_from_the_current_folder(foreign):
    (foreign / "tlopt" / "__init__.py").unlink()
    (foreign / "tlopt").rmdir()
    (foreign / "runpy.py").unlink()  # Python itself imports it to find tlopt
    environment = {**os.environ, "PYTHONPATH": str(Path(tlopt.__file__).parents[1])}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(
        [sys.executable, "-m", "tlopt", "list", "sources"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (foreign / "PWNED").exists()


@pytest.mark.slow
def test_an_own_module_reaches_the_process_that_measures_it(tmp_path, monkeypatch, photos):
    (tmp_path / "own_tiny.py").write_text(
        "from torch import nn\n\n\ndef net(classes):\n"
        "    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), pooled, nn.Linear(4, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    artifact = tlopt.import_model(
        None, tmp_path / "out", model="own_tiny:net", classes=tmp_path / "classes.txt", image_size=32
    )
    assert artifact.card.classes == ("a", "b")
    bench = tlopt.bench([artifact], batch=(1,), seconds=0.01)
    assert bench.rows[0]["host_mb"] is not None


def test_how_a_process_ended_is_said_in_words():
    assert children.ended(-11) == "was ended by signal 11 (segmentation fault)"
    assert children.ended(-9) == "was ended by signal 9 (killed, perhaps for want of memory)"
    assert children.ended(3) == "ended with code 3"
    assert children.ended(-63).startswith("was ended by signal 63 (")
