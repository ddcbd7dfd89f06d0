"""What a person reads before the work: complete, short, and of one width."""

from __future__ import annotations

import re

import pytest
from calling import called

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
    assert "Exit codes: 0 done, 1 error, 2 wrong usage, 3 a check failed, 130 interrupted." in out


@pytest.mark.parametrize("name", TABLE)
def test_every_switch_says_whether_it_is_on_or_off(name, capsys):
    from tlopt.settings import parameters

    _, out, _ = called(capsys, *name.split(), "--help")
    flat = " ".join(out.split())
    for parameter in parameters(TABLE[name].function()):
        if parameter.kind is bool:
            label = f"--[no-]{parameter.option} " if parameter.default else f"--{parameter.option} "
            word = "on" if parameter.default else "off"
            assert re.search(rf"{re.escape(label)}[^[]*\[default {word}\]", flat), parameter.name
