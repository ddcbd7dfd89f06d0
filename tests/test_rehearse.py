"""The script that carries out Dockerfiles without Docker: what it reads, and what needs no rights."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "docker" / "rehearse.py"


@pytest.fixture
def rehearse(monkeypatch):
    spec = importlib.util.spec_from_file_location("rehearse", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "rehearse", module)
    spec.loader.exec_module(module)
    return module


def test_instructions_are_read_with_their_continued_lines(rehearse):
    text = '# a comment\nFROM python:3.12-slim\nRUN a \\\n    && b\n\ncmd ["x"]\n'
    assert list(rehearse.instructions(text)) == [
        ("FROM", "python:3.12-slim"), ("RUN", "a      && b"), ("CMD", '["x"]'),
    ]  # fmt: skip


def test_files_go_where_the_instructions_say(rehearse, tmp_path):
    context, root = tmp_path / "context", tmp_path / "root"
    (context / "folder").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "folder/c.txt"):
        (context / name).write_text(name)
    place = rehearse.Place(root=root, context=context)
    for name, arguments in rehearse.instructions(
        'WORKDIR /app\nCOPY a.txt b.txt ./\nCOPY folder other\nCOPY a.txt /tmp\nENV A=1 B="two words"\nUSER 1000\n'
        'HEALTHCHECK --interval=5m CMD ["check"]\nENTRYPOINT ["run"]\n'
    ):
        if arguments == "a.txt /tmp":
            (root / "tmp").mkdir()
        place.carry_out(name, arguments)
    files = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    assert files == {"app/a.txt", "app/b.txt", "app/other/c.txt", "tmp/a.txt"}
    assert (place.user, place.folder, place.environment["B"]) == ("1000", "/app", "two words")
    assert place.programs == {"HEALTHCHECK": ["check"], "ENTRYPOINT": ["run"]}


def test_another_base_and_an_unknown_instruction_are_refused(rehearse, tmp_path):
    place = rehearse.Place(root=tmp_path, context=tmp_path)
    with pytest.raises(SystemExit, match="starts from nvidia/cuda:13, which is no Debian"):
        rehearse.rehearse(Path("Dockerfile"), "FROM nvidia/cuda:13\n", place)
    with pytest.raises(SystemExit, match="SHELL is not known"):
        place.carry_out("SHELL", "[]")
