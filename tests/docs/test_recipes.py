"""The recipes that the project shows can be read, with the settings of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlopt.recipes.tables import Recipe

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))


@pytest.mark.parametrize("recipe", EXAMPLES, ids=lambda path: path.name)
def test_a_recipe_of_the_examples_fits(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build/solar-cells").mkdir(parents=True)
    assert Recipe.read(recipe).steps
