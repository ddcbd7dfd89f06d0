"""The run of a recipe: its steps one after the other, each an artifact made or a measurement taken.

Steps that are done and whose inputs have not changed are skipped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tlopt import __version__, registry, settings, trusted
from tlopt.artifact import Artifact
from tlopt.cards.card import CARD_NAME
from tlopt.environment import versions
from tlopt.errors import ArtifactError, OutputError, OutputExistsError, SettingError, suggestion
from tlopt.publishing import claim, draft, tidy, write_whole
from tlopt.recipes import checking, ledger
from tlopt.recipes.checking import BEST, models_of, read_by, sources_of
from tlopt.recipes.tables import VERBS, Recipe, Step, step_named
from tlopt.settings import Setting, checked

log = logging.getLogger(__name__)


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
    dry_run: Annotated[bool, Setting("Print the steps that would run, and run none.")] = False,
    force_from: Annotated[str | None, Setting("Run this step and all steps after it again.", metavar="STEP")] = None,
) -> Iterator[Done]:
    """Run the steps of a recipe that are not finished yet.

    The whole recipe is checked before its first step. A second run keeps the steps whose inputs
    have not changed and runs the others again.

    Raises:
        SettingError: The recipe does not fit, or has no step called `force_from`.
        ArtifactError: What runs wrote down of the steps is damaged.
        OutputExistsError: There is something that no run of a recipe made where a step's result goes.
        PluginError: A model is of a module that the person who runs the recipe does not trust.
        TloptError: What a step raises.
    """
    loaded = Recipe.read(recipe)
    names = [step.name for step in loaded.steps]
    if force_from is not None and force_from not in names:
        raise SettingError(f"The recipe has no step {force_from!r}.", hint=suggestion(force_from, names))
    kept = names if force_from is None else names[: names.index(force_from)]
    state = ledger.read(loaded.out, anew=_is_anew(loaded, force_from))
    ours = [name for name, entry in state.items() if entry.get("recipe", loaded.path.name) == loaded.path.name]
    replaced = [step.name for step in loaded.steps if step.name in ours or step.name not in kept]
    others = [step for step in loaded.steps if step.name not in replaced]
    made = [step.name for step in others if _stands(loaded, step, state.get(step.name))]
    checking.check(loaded, ours=[*replaced, *made])
    for step in loaded.steps:
        for model in models_of(step):
            if ":" in model and model.partition(":")[0] not in registry.names("sources"):
                with trusted.reading():
                    trusted.allow(model)
    return _run(loaded, dry_run, force_from)


def _is_anew(recipe: Recipe, force_from: str | None) -> bool:
    """Return whether all steps are to be made again."""
    return force_from == recipe.steps[0].name


def _run(recipe: Recipe, dry_run: bool, force_from: str | None) -> Iterator[Done]:
    if dry_run:
        yield from _planned(recipe, force_from)
        return
    try:
        recipe.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{recipe.out} cannot be made: {error.strerror}.", hint="Choose another `out`.") from error
    with claim(recipe.out / ledger.LOCK, recipe.out):
        state = ledger.read(recipe.out, anew=_is_anew(recipe, force_from))
        forced = False
        for step in recipe.steps:
            forced = forced or step.name == force_from
            yield _done(recipe, step, state, forced)


def _planned(recipe: Recipe, force_from: str | None) -> Iterator[Done]:
    """Yield what a run would do."""
    state = ledger.read(recipe.out, anew=_is_anew(recipe, force_from))
    forced, changed = False, set[str]()
    for step in recipe.steps:
        forced = forced or step.name == force_from
        place = recipe.out / step.name
        stale = forced or any(step_named(source) in changed for source in step.sources)
        keep = not stale and _is_kept(recipe, step, place, state.get(step.name), _key(recipe, step))
        if not keep:
            changed.add(step.name)
        yield Done(step=step, state="to keep" if keep else "to make", path=place)


def _done(recipe: Recipe, step: Step, state: dict[str, ledger.Entry], forced: bool) -> Done:
    """Keep a step or make it, and write down which."""
    place, key, entry = recipe.out / step.name, _key(recipe, step), state.get(step.name)
    if not forced and _is_kept(recipe, step, place, entry, key):
        text = entry["text"] if entry else ""
        tidy(place)
        by = entry.get("recipe", recipe.path.name) if entry else recipe.path.name
        done = {"key": key, "result": ledger.identity(place), "text": text, "recipe": by}
        ledger.write(recipe.out, state, step.name, done)
        return Done(step=step, state="kept", path=place, text=text)
    started = time.perf_counter()
    log.info("step %s: %s", step.name, step.verb)
    # Written down before the step begins: what it leaves if it is killed is this recipe's.
    begun = {"key": key, "result": "", "text": "", "before": ledger.identity(place), "recipe": recipe.path.name}
    ledger.write(recipe.out, state, step.name, begun)
    text = _make(recipe, step, place, forced)
    seconds = time.perf_counter() - started
    done = {"key": key, "result": ledger.identity(place), "text": text, "recipe": recipe.path.name}
    ledger.write(recipe.out, state, step.name, done)
    return Done(step=step, state="made", path=place, seconds=seconds, text=text)


def _make(recipe: Recipe, step: Step, place: Path, forced: bool) -> str:
    """Do a step, anew if that is forced; return what is to be shown besides its folder."""
    function = VERBS[step.verb].function()
    sources = sources_of(recipe, step)
    if VERBS[step.verb].gives == "report":
        with trusted.reading():
            report = function(*sources, **step.settings).to_report()
        report.check()
        with draft(place, force=True, reads=sources, makes="report") as made:
            write_whole(made / f"{step.verb}.json", report.to_json())
        return str(report.table())
    if step.verb == "report":
        with draft(place, force=True, reads=sources, makes="report") as made:
            report = function(sources, made / step.verb, **step.settings)
            report.check()  # an older one stands if something could not run
            for file in (made / step.verb).iterdir():
                file.rename(made / file.name)
            (made / step.verb).rmdir()
        return str(report.table())
    if VERBS[step.verb].gives == "study":
        _search(function, sources, place, step, forced)
        return ""
    # A recipe may be another one's: the modules that it names run only if the person who runs it trusts them.
    with trusted.reading():
        function(sources[0] if sources else None, place, force=True, **settings.check(function, step.settings))
    return ""


def _search(function: Callable[..., Any], sources: list[Path], place: Path, step: Step, forced: bool) -> None:
    """Go on with the search at a place, or begin it there anew if that is forced, or if it is another one.

    Raises:
        CheckError: Nothing keeps to its budget.
    """
    with trusted.reading():
        try:
            found = function(*sources, place, force=forced, **step.settings)
        except OutputExistsError:
            if forced:
                raise
            found = function(*sources, place, force=True, **step.settings)
    found.to_report().check()


def _key(recipe: Recipe, step: Step) -> str:
    """Return what decides a step's result: verb, settings, tlopt's version, and the content of all that it reads."""
    sources = [ledger.identity(source) for source in sources_of(recipe, step)]
    chosen = settings.check(VERBS[step.verb].function(), step.settings)
    read = {name: ledger.identity(path) for name, path in read_by(step).items()}
    text = json.dumps([__version__, step.verb, chosen, sources, read], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_kept(recipe: Recipe, step: Step, place: Path, entry: ledger.Entry | None, key: str) -> bool:
    """Return whether what stands at a step's place is what the step would make."""
    found = ledger.identity(place)
    if not found or (VERBS[step.verb].gives == "study" and not ledger.identity(place / BEST)):
        return False
    if entry is None:
        # Only what a step names is in its lineage, not what was in it.
        return not read_by(step) and _is_made(recipe, step)
    if entry["result"]:
        return entry["key"] == key and entry["result"] == found
    # The run that began it was killed. It may have been before the step stood: then the old result still does.
    return entry["key"] == key and found != entry.get("before") and _is_made(recipe, step)


def _stands(recipe: Recipe, step: Step, entry: ledger.Entry | None) -> bool:
    """Return whether what stands at a step's place, and no run of this recipe wrote down, is what it would make."""
    return _is_kept(recipe, step, recipe.out / step.name, entry, _key(recipe, step))


def _is_made(recipe: Recipe, step: Step) -> bool:
    """Return whether an artifact's lineage says that a step made it, with its present settings and source."""
    place = recipe.out / step.name
    if not (place / CARD_NAME).exists():
        return False
    try:
        lineage = Artifact.load(place).card.lineage
    except ArtifactError:
        return False
    if not lineage or lineage[-1].stage != step.verb or lineage[-1].versions.get("tlopt") != versions().get("tlopt"):
        return False
    chosen = settings.check(VERBS[step.verb].function(), step.settings)
    wanted = json.loads(json.dumps({name.rstrip("_"): value for name, value in chosen.items()}, default=str))
    same = all(name in wanted and wanted[name] == value for name, value in lineage[-1].settings.items())
    return same and lineage[-1].source == "".join(map(ledger.identity, sources_of(recipe, step)))
