"""The page of all benchmarks, and the script that takes its figures again."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import page

SCRIPT = Path(page.__file__).with_name("all.sh")


def test_the_page_is_made_of_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.text()


@pytest.fixture
def clone(tmp_path):
    """Return a copy of the script beside a Python that notes what it is asked for, and fails for one benchmark."""
    (tmp_path / "benchmarks").mkdir()
    script = tmp_path / "benchmarks" / "all.sh"
    script.write_bytes(SCRIPT.read_bytes())
    script.chmod(0o755)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >> asked\ncase "$1" in *scale.py) exit 1 ;; esac\n')
    python.chmod(0o755)
    return tmp_path


def run(clone, *words):
    return subprocess.run(
        [clone / "benchmarks" / "all.sh", *words], env={"PATH": "/usr/bin:/bin", "PYTHON": str(clone / "python")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_fails_is_named_and_the_others_go_on(clone):
    done = run(clone)
    asked = (clone / "asked").read_text()
    assert "scale: failed, see build/benchmarks/scale.log" in done.stdout
    assert "robustness.py" in asked
    assert "predict: left out, there is no ../shared" in done.stdout
    assert asked.endswith("page.py\n")
    again = run(clone)
    assert "harness: done already" in again.stdout
    assert "scale: about 10 min" in again.stdout


def test_named_benchmarks_are_run_again(clone):
    run(clone, "harness")
    assert (clone / "asked").read_text() == "benchmarks/harness.py --seconds 20\nbenchmarks/page.py\n"
    run(clone, "harness")
    assert (clone / "asked").read_text().count("harness.py") == 2


def test_a_benchmark_that_there_is_not_is_named(clone):
    done = run(clone, "harmess")
    assert done.returncode == 2
    assert "There is no benchmark harmess" in done.stderr


def test_every_benchmark_in_the_list_is_there():
    listed = subprocess.run([SCRIPT, "--list"], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) > 20
    text = SCRIPT.read_text()
    files = {word for line in text.splitlines() for word in line.split() if word.endswith(".py")}
    missing = [file for file in files if "/" not in file and not SCRIPT.with_name(file).exists()]
    assert not missing, missing
