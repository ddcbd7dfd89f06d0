"""A recipe: a TOML file of steps, each an artifact made or a measurement taken; done steps are skipped.

out = "runs/solar-cells"            # where the steps' folders go, relative to the recipe's run

[tuned]                             # a step: its name is its folder below `out`
finetune = "photos"                 # first the verb, with what it works on: a folder, or a step
model = "pip:efficientnet_lite0"    # then the settings of that verb

[fp32]
export = "tuned"

[report]
report = ["tuned", "fp32"]
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tlopt import __version__, files, registry, settings, trusted
from tlopt.artifact import Artifact, sha256
from tlopt.card import CARD_NAME
from tlopt.errors import ArtifactError, ImagesError, OutputExistsError, SettingError, suggestion
from tlopt.images import scan
from tlopt.images.manifest import is_manifest
from tlopt.publishing import refuse_existing
from tlopt.settings import Setting, checked
from tlopt.verbs import TABLE

log = logging.getLogger(__name__)

_STATE = ".steps.json"
_READ = frozenset({"images", "teacher", "weights", "classes"})  # settings that name what a step reads


_VERBS = {name: verb for name, verb in TABLE.items() if verb.recipe}


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
        """
        path = Path(path)
        try:
            raw = tomllib.loads(files.read_text(path))
        except OSError as error:
            raise SettingError(f"The recipe {path} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingError(f"The recipe {path} is no valid TOML: {error}.") from error
        out = raw.pop("out", None)
        if not isinstance(out, str):
            raise SettingError(
                f"The recipe {path} needs a folder for its results.", hint='Begin with out = "runs/NAME".'
            )
        steps: list[Step] = []
        for name, table in raw.items():
            steps.append(_step(path, name, table, [step.name for step in steps]))
        if not steps:
            raise SettingError(f"The recipe {path} has no step.", hint='Add one: [tuned] with finetune = "photos".')
        return cls(path=path, out=Path(out), steps=tuple(steps))


def _step(path: Path, name: str, table: Any, earlier: list[str]) -> Step:
    where = f"{path}, step {name}"
    if not isinstance(table, dict):
        raise SettingError(f"{path}: unknown key {name!r}.", hint=suggestion(name, ["out"]))
    verbs = [key for key in table if key in _VERBS]
    if len(verbs) != 1:
        problem = f"has {len(verbs)} verbs" if verbs else "has no verb"
        near = suggestion(next(iter(table)), _VERBS) if table and not verbs else f"One of: {', '.join(_VERBS)}."
        raise SettingError(f"{where}: the step {problem}.", hint=near)
    verb = verbs[0]
    given = {key: value for key, value in table.items() if key != verb}
    value = table[verb]
    sources = tuple(value) if isinstance(value, list) else (value,) if value else ()
    if not all(isinstance(source, str) for source in sources) or (len(sources) > 1 and not _VERBS[verb].several):
        works_on = "steps" if _VERBS[verb].several else "one source"
        raise SettingError(f"{where}: {verb} works on {works_on}, got {value!r}.")
    if verb == "compare" and len(sources) != 2:
        raise SettingError(f"{where}: compare takes the reference and the candidate, got {len(sources)} sources.")
    for source in sources:
        if source not in earlier and not Path(source).exists():
            raise SettingError(
                f"{where}: there is neither an earlier step nor a path called {source!r}.",
                hint=suggestion(source, earlier) if earlier else f"Paths are relative to {Path.cwd()}.",
            )
    try:
        settings.check(_VERBS[verb].function(), given)
    except SettingError as error:
        raise SettingError(f"{where}: {error.message}", hint=error.hint) from error
    return Step(name=name, verb=verb, sources=sources, settings=given)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of a step.

    Args:
        step: The step.
        state: "made", "kept" (done before with the same inputs), or what a dry run would do:
            "to make" or "to keep".
        path: Its folder.
        seconds: How long it took.
    """

    step: Step
    state: str
    path: Path
    seconds: float = 0.0
    text: str = field(default="", repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the step's result as JSON types."""
        return {
            "step": self.step.name,
            "verb": self.step.verb,
            "state": self.state,
            "path": str(self.path),
            "seconds": round(self.seconds, 3),
        }

    def line(self) -> str:
        """Return the step's result as text."""
        time_text = f"{self.seconds:7.1f} s" if self.state == "made" else " " * 9
        head = f"{self.step.name:<14} {self.step.verb:<9} {self.state:<8} {time_text}  {self.path}"
        return f"{head}\n{self.text}" if self.text else head


@checked
def run(
    recipe: str | Path,
    *,
    dry_run: Annotated[bool, Setting("Say what would be done, and do nothing.")] = False,
    force_from: Annotated[str | None, Setting("Do this step and all after it again.", metavar="STEP")] = None,
) -> Iterator[Done]:
    """Run a recipe, a file of steps; finished steps are kept.

    The whole recipe is checked before the first step. Yields each step when it is done; a second
    run keeps what is unchanged and makes the rest again.

    Raises:
        SettingError: The recipe does not fit, or has no step called `force_from`.
        OutputExistsError: There is something that no run of a recipe made where a step's result goes.
        PluginError: A model is of a module that the person who runs the recipe does not trust.
        TloptError: What a step raises.
    """
    loaded = Recipe.read(recipe)
    names = [step.name for step in loaded.steps]
    if force_from is not None and force_from not in names:
        raise SettingError(f"The recipe has no step {force_from!r}.", hint=suggestion(force_from, names))
    safe = names if force_from is None else names[: names.index(force_from)]
    for name in safe:
        if name not in _read_state(loaded.out):
            _refuse(loaded.out / name, name)
    for step in loaded.steps:
        model = str(step.settings.get("model", ""))
        if ":" in model and model.partition(":")[0] not in registry.names("sources"):
            with trusted.reading():
                trusted.allow(model)
    return _run(loaded, dry_run, force_from)


def _refuse(place: Path, name: str) -> None:
    try:
        refuse_existing(place)
    except OutputExistsError as error:
        raise OutputExistsError(
            f"{place} exists, and no run of this recipe made it.",
            hint=f"Move it, or choose another `out`; --force-from {name} replaces it.",
        ) from error


def _run(recipe: Recipe, dry_run: bool, force_from: str | None) -> Iterator[Done]:
    state = _read_state(recipe.out)
    forced = False
    changed: set[str] = set()
    for step in recipe.steps:
        forced = forced or step.name == force_from
        place = recipe.out / step.name
        stale = forced or any(source in changed for source in step.sources)
        key = None if stale and dry_run else _key(recipe, step)
        keep = not stale and _is_done(state.get(step.name), key, place)
        if dry_run:
            if not keep:
                changed.add(step.name)
            yield Done(step=step, state="to keep" if keep else "to make", path=place)
            continue
        if keep:
            yield Done(step=step, state="kept", path=place, text=state[step.name].get("text", ""))
            continue
        started = time.perf_counter()
        log.info("step %s: %s", step.name, step.verb)
        text = _make(recipe, step, place)
        seconds = time.perf_counter() - started
        state[step.name] = {"key": _key(recipe, step), "result": _identity(place), "text": text}
        _write_state(recipe.out, state)
        yield Done(step=step, state="made", path=place, seconds=seconds, text=text)


def _make(recipe: Recipe, step: Step, place: Path) -> str:
    """Do a step; return what is to be shown besides its folder."""
    function = _VERBS[step.verb].function()
    sources = [recipe.out / source if _is_step(recipe, source) else Path(source) for source in step.sources]
    if step.verb == "compare":
        comparison = function(*sources, **step.settings)
        report = comparison.to_report()
        report.check()
        place.mkdir(parents=True, exist_ok=True)
        (place / "compare.json").write_text(report.to_json(), encoding="utf-8")
        return str(report.table())
    if step.verb == "report":
        return str(function(sources, place, **step.settings).table())
    # A recipe may be another one's: the modules that it names run only if the person who runs it trusts them.
    with trusted.reading():
        function(sources[0] if sources else None, place, force=True, **settings.check(function, step.settings))
    return ""


def _is_step(recipe: Recipe, source: str) -> bool:
    return any(step.name == source for step in recipe.steps)


def _key(recipe: Recipe, step: Step) -> str:
    """Return what decides a step's result: verb, settings, tlopt's version, and the content of all that it reads."""
    sources = [_identity(recipe.out / source if _is_step(recipe, source) else Path(source)) for source in step.sources]
    chosen = settings.check(_VERBS[step.verb].function(), step.settings)
    read = {name: _identity(value) for name, value in chosen.items() if name in _READ and isinstance(value, Path)}
    text = json.dumps([__version__, step.verb, chosen, sources, read], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(path: Path) -> str:
    """Return the digest of an artifact, a folder of images, a file, or a folder of results."""
    try:
        if (path / CARD_NAME).exists():
            return Artifact.load(path).digest
        if path.is_file() and not is_manifest(path):
            return sha256(path)
        try:
            return scan(path).digest
        except ImagesError:
            results = sorted(path.glob("*.json"))
            return hashlib.sha256("".join(map(sha256, results)).encode()).hexdigest() if results else ""
    except (ArtifactError, ImagesError, OSError):
        return ""


def _is_done(entry: Mapping[str, Any] | None, key: str | None, place: Path) -> bool:
    return bool(entry) and entry is not None and entry["key"] == key and entry["result"] == _identity(place) != ""


def _read_state(out: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(files.read_text(out / _STATE))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_state(out: Path, state: Mapping[str, Any]) -> None:
    handle, name = tempfile.mkstemp(dir=out, prefix=_STATE)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(state, file, indent=1)
    Path(name).replace(out / _STATE)
