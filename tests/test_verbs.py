"""The table of verbs against the functions it names and the package's public names."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import tlopt
from tlopt.environment import MOST_THREADS
from tlopt.errors import SettingError
from tlopt.settings import parameters
from tlopt.verbs import GROUPS, MOST, TABLE, WORDS


@pytest.mark.parametrize("verb", TABLE.values(), ids=TABLE)
def test_a_verbs_function_checks_its_settings_before_anything_else(verb):
    places = ["nowhere" if not argument.many else ["nowhere"] for argument in verb.takes]
    out = ["nowhere else"] if verb.gives in ("path", "study") else []
    with pytest.raises(SettingError, match="has no setting 'no_such_setting'"):
        verb.function()(*places, *out, no_such_setting=1)


@pytest.mark.parametrize("verb", TABLE.values(), ids=TABLE)
def test_a_verbs_summary_is_the_first_line_of_its_functions_docstring(verb):
    assert (inspect.getdoc(verb.function()) or "").partition("\n")[0] == verb.summary
    assert len(verb.summary) <= MOST
    assert verb.summary.endswith(".")


@pytest.mark.parametrize("verb", TABLE.values(), ids=TABLE)
def test_a_verb_takes_what_its_function_takes(verb):
    signature = inspect.signature(verb.function())
    names = [name for name, one in signature.parameters.items() if one.kind is not one.KEYWORD_ONLY]
    assert names == [argument.name for argument in verb.takes] + ["out"] * (verb.gives in ("path", "study"))


def test_every_verb_is_in_a_group_and_every_group_has_one():
    assert {verb.group for verb in TABLE.values()} == set(GROUPS)
    assert {name.partition(" ")[0] for name in TABLE if " " in name} == set(WORDS)


def test_type_checkers_know_the_public_names():
    tree = ast.parse(Path(tlopt.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {name.asname: f"{node.module}:{name.name}" for node in block.body for name in node.names}
    assert sorted(declared) == tlopt.__all__
    for verb in TABLE.values():
        if verb.python:
            assert declared[verb.attribute] == f"tlopt.{verb.at}"


def test_every_public_name_is_there():
    for name in tlopt.__all__:
        assert getattr(tlopt, name) is not None


@pytest.mark.parametrize("verb", TABLE.values(), ids=TABLE)
def test_a_hundred_thousand_threads_are_refused(verb):
    for one in parameters(verb.function()):
        if one.name in ("threads", "streams", "instances"):
            assert one.setting.maximum == MOST_THREADS


@pytest.mark.parametrize("verb", TABLE.values(), ids=TABLE)
def test_a_slip_of_the_keyboard_in_a_count_is_refused_at_once(verb):
    for one in parameters(verb.function()):
        if int in (one.kind, one.item) and one.name != "seed":  # a seed may be any number
            assert one.setting.maximum is not None, f"{one.name} has no largest value"
            assert one.setting.maximum < 10**9
