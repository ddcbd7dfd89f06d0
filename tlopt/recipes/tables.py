"""A recipe as its file says it: the tables of its steps, read and checked.

out = "runs/solar-cells"            # where the steps' folders go, relative to the recipe's run

[tuned]                             # a step: its name is its folder below `out`
finetune = "images"                 # first the verb, with what it works on: a folder, or a step
model = "pip:efficientnet_lite0"    # then the settings of that verb

[fp32]
export = "tuned"

[report]
report = ["tuned", "fp32"]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlopt import settings
from tlopt.errors import SettingError, TloptError, suggestion
from tlopt.reading import files, schema
from tlopt.verbs import TABLE

VERBS = {name: verb for name, verb in TABLE.items() if verb.recipe}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a recipe.

    Args:
        name: Its name, and that of its folder.
        verb: What it does.
        sources: What it works on: names of earlier steps, or paths.
        settings: The settings that the recipe gives.
    """

    name: str
    verb: str
    sources: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe file.

    Args:
        path: The file.
        out: Folder of the steps' folders.
        steps: In the order of the file.
    """

    path: Path
    out: Path
    steps: tuple[Step, ...]

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read and check a recipe: syntax, verbs, sources, settings.

        Raises:
            SettingError: Anything in it does not fit, with the step and the close match.
            TloptError: A rule between settings is broken, as it says.
        """
        path = Path(path)
        try:
            raw = schema.parse_toml(files.read_text(path, encoding="utf-8-sig"))  # editors put a mark in front
        except OSError as error:
            raise SettingError(f"The recipe {path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise SettingError(f"The recipe {path} is not valid TOML: {error}.") from error
        except schema.SchemaError as error:
            raise SettingError(f"The recipe {path} cannot be used: {error}.") from error
        out = raw.pop("out", None)
        if not isinstance(out, str) or not out or "\0" in out:
            raise SettingError(
                f"The recipe {path} needs a folder for its results.", hint='Begin with out = "runs/NAME".'
            )
        steps: list[Step] = []
        for name, table in raw.items():
            steps.append(_step(path, name, table, [step.name for step in steps], list(raw)))
        if not steps:
            raise SettingError(f"The recipe {path} has no step.", hint='Add one: [tuned] with finetune = "images".')
        return cls(path=path, out=Path(out), steps=tuple(steps))


def step_named(source: str) -> str:
    """Return the step that a source names: the answer of a search, "search/best", is what the step "search" makes."""
    return source.removesuffix("/best")


def _step(path: Path, name: str, table: Any, earlier: list[str], every: list[str]) -> Step:
    where = f"{path}, step {name}"
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise SettingError(
            f"{path}: {name!r} cannot be the name of a step.",
            hint="It is the name of the step's folder: letters, digits, - and _.",
        )
    if isinstance(table, list) and table and isinstance(table[0], dict):
        raise SettingError(f"{path}: {name} is a list of tables.", hint=f"Each step is a table of its own: [{name}]")
    if not isinstance(table, dict):
        raise SettingError(f"{path}: unknown key {name!r}.", hint=suggestion(name, ["out"]))
    verbs = [key for key in table if key in VERBS]
    if len(verbs) != 1:
        problem = f"has {len(verbs)} verbs" if verbs else "has no verb"
        if (other := next((key for key in table if key in TABLE), "")) and not verbs:
            raise SettingError(f"{where}: recipes have no {other}.", hint=f"They have {', '.join(VERBS)}.")
        near = suggestion(next(iter(table)), VERBS) if table and not verbs else f"One of: {', '.join(VERBS)}."
        raise SettingError(f"{where}: the step {problem}.", hint=near)
    verb = verbs[0]
    given = {key: value for key, value in table.items() if key != verb}
    value = table[verb]
    sources = tuple(value) if isinstance(value, list) else (value,) if value else ()
    if not all(isinstance(source, str) for source in sources) or (len(sources) > 1 and not VERBS[verb].several):
        works_on = "steps" if VERBS[verb].several else "one source"
        raise SettingError(f"{where}: {verb} works on {works_on}, got {value!r}.")
    optional = VERBS[verb].gives == "path" and not any(one.required for one in VERBS[verb].takes)
    if not all(sources) or not (sources or optional):
        raise SettingError(f"{where}: {verb} needs to know what it works on.", hint=f'{verb} = "FOLDER_OR_STEP"')
    if verb == "compare" and len(sources) != 2:
        raise SettingError(f"{where}: compare takes the reference and the candidate, got {len(sources)} sources.")
    for source in sources:
        if step_named(source) not in earlier and not os.path.exists(source):  # noqa: PTH110 - Path raises for a name too long
            raise SettingError(
                f"{where}: there is neither an earlier step nor a path called {source!r}.",
                hint=_nearest(source, earlier, [one for one in every if one not in (name, "out")]),
            )
    _check_settings(where, verb, given)
    return Step(name=name, verb=verb, sources=sources, settings=given)


def _check_settings(where: str, verb: str, given: Mapping[str, Any]) -> None:
    function = VERBS[verb].function()
    for one in settings.parameters(function):
        if one.setting.asks and one.name in given:
            raise SettingError(
                f"{where}: {one.name} only asks, and a step makes something.",
                hint="Leave it out. tlopt run --dry-run shows what the steps would do.",
            )
    try:
        settings.check(function, given)
    except TloptError as error:
        raise type(error)(f"{where}: {error.message}", hint=error.hint) from error


def _nearest(source: str, earlier: list[str], every: list[str]) -> str:
    """Return a hint for a source that is neither a step before nor a path."""
    if step_named(source) in every:
        return f"Move the step {step_named(source)} before this one."
    return suggestion(source, earlier) if earlier else f"Paths are relative to {Path.cwd()}."
