"""What a person reads before the work: complete, short, and of one width."""

from __future__ import annotations

import inspect
import re

import pytest
from calling import called

from tlopt.cli.commands import prose
from tlopt.settings import parameters
from tlopt.verbs import GROUPS, TABLE

ALL = ["", "data", *TABLE]


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", ALL)
def test_help_fits_eighty_columns_and_nothing_is_cut_off(name, capsys):
    code, out, _ = called(capsys, *name.split(), "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "Setting(" not in out


@pytest.mark.parametrize("name", TABLE)
def test_every_command_shows_its_example_as_one_types_it(name, capsys):
    _, out, _ = called(capsys, *name.split(), "--help")
    shown = re.sub(r" \\\n\s+", " ", out.partition("Example:\n")[2]).strip()
    assert shown == TABLE[name].example


def test_the_commands_stand_in_groups_with_their_summaries(capsys):
    _, out, _ = called(capsys, "--help")
    sections = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", out, re.MULTILINE))
    for group in GROUPS:
        lines = [" ".join(line.split()) for line in sections[group].splitlines()]
        assert lines == [f"{verb.name} {verb.summary}" for verb in TABLE.values() if verb.group == group]
    assert "Exit codes: 0 done, 1 error, 2 usage, 3 check failed, 130 Ctrl-C, 143 SIGTERM." in out


@pytest.mark.parametrize("name", TABLE)
def test_every_switch_says_whether_it_is_on_or_off(name, capsys):
    _, out, _ = called(capsys, *name.split(), "--help")
    flat = " ".join(out.split())
    for parameter in parameters(TABLE[name].function()):
        if parameter.kind is bool:
            if parameter.default is None:  # left to the command
                assert f"--[no-]{parameter.option} " in flat
                continue
            label = f"--[no-]{parameter.option} " if parameter.default else f"--{parameter.option} "
            word = "on" if parameter.default else "off"
            assert re.search(rf"{re.escape(label)}[^[]*\[default {word}\]", flat), parameter.name


@pytest.mark.parametrize("name", TABLE)
def test_the_options_that_every_command_has_come_last(name, capsys):
    """What one command alone has comes first: a reader stops at what all of them have."""
    _, out, _ = called(capsys, *name.split(), "--help")
    assert re.findall(r"^(\w[\w ]*):$", out, re.MULTILINE)[-2:] == ["General", "Example"]


def _sentences(text):
    return [one for one in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if one]


def _texts(verb):
    """Return what a person reads of a command, by where it stands."""
    function = verb.function()
    texts = {parameter.option: parameter.setting.help for parameter in parameters(function)}
    return {"text": prose(inspect.getdoc(function)), "summary": verb.summary, **texts}


@pytest.mark.parametrize("name", TABLE)
def test_help_is_plain_english(name):
    """One thought a sentence, 25 words at most, the word image, and nothing that only Python users can do."""
    for where, text in _texts(TABLE[name]).items():
        assert text.endswith("."), where
        for sentence in _sentences(text):
            assert len(sentence.split()) <= 25, f"{where}: {sentence}"
            assert ";" not in sentence, f"{where}: {sentence}"
        assert not re.search(r"(?i)photo|picture", text), f"{where}: {text}"
        assert not re.search(r"`|\b[a-z]+_[a-z]+\b", text), f"{where}: {text}"


@pytest.mark.parametrize("name", TABLE)
def test_the_options_that_matter_come_first_and_are_few_where_there_are_many(name, capsys):
    _, out, _ = called(capsys, *name.split(), "--help")
    first = re.findall(r"^  (-.*)$", out.partition("Options:\n")[2].partition("\n\n")[0], re.MULTILINE)
    all_options = re.findall(r"^  (-.*)$", out, re.MULTILINE)
    assert len(all_options) < 30 or len(first) <= 12
