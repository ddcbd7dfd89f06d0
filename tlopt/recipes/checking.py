"""What is checked of all steps of a recipe before the first one works: places, sources, and what settings name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tlopt import registry, settings
from tlopt.artifact import Artifact, images_of
from tlopt.errors import ArtifactError, ImagesError, OutputExistsError, SettingError, TloptError
from tlopt.images import intrusion
from tlopt.publishing import check_place
from tlopt.publishing.places import located
from tlopt.reading.files import real_path
from tlopt.recipes.ledger import LOCK, STATE
from tlopt.recipes.tables import VERBS, Recipe, Step, step_named
from tlopt.stages import Stage, kind_of, open_source
from tlopt.stages.export import READS, on_the_way

_READ = frozenset({"images", "teacher", "unlabelled", "weights", "classes"})  # settings that name what a step reads
_ARTIFACTS = ("torch", "onnx", "tensorrt")
_OTHERS = {"images": "a folder of images", "file": "a file"}  # what some verbs work on instead
BEST = "best"  # in the folder of a search: its answer


def check(recipe: Recipe, *, ours: Collection[str]) -> None:
    """Check all that can be known of a recipe before it runs.

    Args:
        recipe: The recipe.
        ours: Steps that a run of the recipe has worked on before, or that are to replace what is there.

    Raises:
        SettingError: A step needs what no step before it makes, names what is not there, or has a setting that does
            not go with what it works on.
        ArtifactError: A source or a teacher is damaged or of the wrong kind.
        ImagesError: A folder of images cannot be used.
        OutputExistsError: A step's result would replace what is not the recipe's.
        OutputError: It cannot be made in its place, or lies among images.
        PluginError: A network is unknown to its source.
        MissingLibraryError: The library of a network's source is not installed.
    """
    for step in recipe.steps:
        where = f"{recipe.path}, step {step.name}"
        try:
            _check_sources(recipe, step)
            _check_read(recipe, step)
        except SettingError as error:
            raise SettingError(f"{where}: {error.message}", hint=error.hint) from error
        except (ArtifactError, ImagesError) as error:
            kind = ArtifactError if isinstance(error, ArtifactError) else ImagesError
            raise kind(f"{where}: {error.message}", hint=error.hint) from error
    reads = [recipe.path, *_reads(recipe)]
    places: dict[Path, str] = {}
    for step in recipe.steps:
        for place in (recipe.out / step.name, *_beside(recipe, step)):
            if (other := places.setdefault(located(place), step.name)) != step.name:
                raise SettingError(
                    f"{recipe.path}: the steps {other} and {step.name} both make {place}.", hint="Rename one."
                )
        _check_places(recipe, step, reads, ours=step.name in ours)
    _check_files(recipe, places, reads)
    for step in recipe.steps:  # last, because a source's library is imported for its names
        _check_models(recipe, step)


def read_by(step: Step) -> dict[str, Path]:
    """Return the settings of a step that name what it reads."""
    return {name: value for name, value in _paths(step).items() if name in _READ}


def is_step(recipe: Recipe, step: Step, source: str) -> bool:
    """Return whether a source of a step is a step before it; what only it or a later one is called like is a path."""
    return step_named(source) in _names_before(recipe, step)


def sources_of(recipe: Recipe, step: Step) -> list[Path]:
    """Return where what a step works on is."""
    return [recipe.out / source if is_step(recipe, step, source) else Path(source) for source in step.sources]


def _names_before(recipe: Recipe, step: Step) -> list[str]:
    names = [one.name for one in recipe.steps]
    return names[: names.index(step.name)]


def _paths(step: Step) -> dict[str, Path]:
    chosen = settings.check(VERBS[step.verb].function(), step.settings)
    return {name: value for name, value in chosen.items() if isinstance(value, Path)}


def _reads(recipe: Recipe) -> Iterator[Path]:
    """Yield all that the steps of a recipe read and do not make themselves."""
    for step in recipe.steps:
        outer = [Path(source) for source in step.sources if not is_step(recipe, step, source)]
        for read in (*outer, *read_by(step).values()):
            yield read
            if (images := images_of(read)) is not None:
                yield images


def _kinds_read(step: Step) -> tuple[str, ...]:
    """Return what a verb works on, in the words of `Stage.reads`."""
    function = VERBS[step.verb].function()
    if isinstance(function, Stage):
        return function.reads
    return {"export": READS, "optimize": ("images", "torch", "onnx"), "rank": ("images",)}.get(step.verb, _ARTIFACTS)


def _kind_made(step: Step) -> str:
    """Return the kind of artifact that a step makes; empty if only its run tells."""
    function = VERBS[step.verb].function()
    if isinstance(function, Stage) and function.writes:
        return function.writes
    if step.verb == "import":
        return "torch" if step.settings.get("model") else "onnx"
    if step.verb == "export":
        return "tensorrt" if step.settings.get("trt") else "onnx"
    return "" if VERBS[step.verb].gives == "study" else "report"


def _check_sources(recipe: Recipe, step: Step) -> None:
    """Check all that a step works on, and that its settings go with it."""
    kinds = [_check_source(recipe, step, source) for source in step.sources] or ["nothing"]
    if len(kinds) == 1 and kinds[0]:
        function = VERBS[step.verb].function()
        settings.check_kind(function, settings.check(function, step.settings), kinds[0])
    places = list(map(located, sources_of(recipe, step)))
    for source, place in zip(step.sources, places, strict=True):
        if step.verb == "report" and places.count(place) > 1:
            raise SettingError(f"report works on {source} twice.", hint="Name each artifact once.")


def _check_source(recipe: Recipe, step: Step, source: str) -> str:
    """Check one of the things that a step works on; return its kind, empty if only the run tells.

    Raises:
        SettingError: It is a step that makes something else.
        ArtifactError: It is damaged, or of a kind that the verb does not read.
        ImagesError: It is a folder of images that cannot be used.
    """
    kinds = _kinds_read(step)
    if not is_step(recipe, step, source):
        return kind_of(open_source(step.verb, source, kinds))
    before = next(one for one in recipe.steps if one.name == step_named(source))
    searches = VERBS[before.verb].gives == "study"
    if searches != source.endswith(f"/{BEST}"):
        raise SettingError(
            f"{before.name} is a search, and {step.verb} works on its answer."
            if searches
            else f"{before.name} is no search, so there is no {source}.",
            hint=f'Write {step.verb} = "{before.name}{f"/{BEST}" if searches else ""}".',
        )
    made = _kind_made(before)
    if made == "report" or (made and made not in kinds):
        wanted = " or ".join(kind for kind in kinds if kind in _ARTIFACTS)
        needed = f"an artifact of kind {wanted}" if wanted else _OTHERS[kinds[0]]
        what = "a report" if made == "report" else f"one of kind {made}"
        raise SettingError(f"{step.verb} needs {needed}, and the step {before.name} makes {what}.")
    return made


def _check_read(recipe: Recipe, step: Step) -> None:
    """Check what the settings of a step name: what is not there has to be made by a step before it.

    Raises:
        SettingError: Neither is so.
        ArtifactError: A teacher is damaged, or no classifier.
    """
    before = _names_before(recipe, step)
    made = [located(recipe.out / name) for name in before]
    for name, path in read_by(step).items():
        place = located(path)
        if any(folder in (place, *place.parents) for folder in made):
            continue
        if not os.path.exists(path):  # noqa: PTH110 - Path raises for a name too long
            hint = f"Paths are relative to {Path.cwd()}."
            if str(path) in before:
                hint = f'The step {path} makes it in another place: {name} = "{recipe.out / path}".'
            raise SettingError(f"{name}: there is nothing at {path}.", hint=hint)
        if name == "teacher":
            Artifact.load(path).expect_classifier("A teacher")


def models_of(step: Step) -> list[str]:
    """Return the models that a step names."""
    several = step.settings.get("models", ())
    named = several.split(",") if isinstance(several, str) else several
    found = [str(model).strip() for model in (step.settings.get("model", ""), *named)]
    return [model for model in found if model]


def _check_models(recipe: Recipe, step: Step) -> None:
    """Check that the networks that a step names are known to their source, or are there.

    Raises:
        SettingError: There is no artifact where a step names one.
        TloptError: What `sources.expect_known` raises.
    """
    where = f"{recipe.path}, step {step.name}"
    made = [located(recipe.out / name) for name in _names_before(recipe, step)]
    for model in models_of(step):
        if ":" not in model:
            place = located(model)
            if not place.exists() and not any(folder in (place, *place.parents) for folder in made):
                raise SettingError(
                    f"{where}: there is no artifact at {model}.", hint=f"Paths are relative to {Path.cwd()}."
                )
        elif model.partition(":")[0] in registry.names("sources"):
            from tlopt import sources  # it takes seconds to import torch

            try:
                sources.expect_known(model)
            except TloptError as error:
                raise type(error)(f"{where}: {error.message}", hint=error.hint) from error


def _beside(recipe: Recipe, step: Step) -> list[Path]:
    """Return the places of what a step makes on its way."""
    if step.verb != "export":
        return []
    chosen: dict[str, Any] = settings.check(VERBS["export"].function(), step.settings)
    named = {name: chosen[name] for name in ("precision", "trt", "input_")}
    return on_the_way(recipe.out / step.name, kind=_kind_of(recipe, step, step.sources[0]), **named)


def _kind_of(recipe: Recipe, step: Step, source: str) -> str:
    """Return the kind of a source that is an artifact; empty if only the run tells."""
    if is_step(recipe, step, source):
        return _kind_made(next(one for one in recipe.steps if one.name == step_named(source)))
    return Artifact.load(source).card.kind


def _check_places(recipe: Recipe, step: Step, reads: Collection[Path], *, ours: bool) -> None:
    """Refuse a step whose places hold what is not the recipe's."""
    measures = VERBS[step.verb].group == "Measure"
    searches = VERBS[step.verb].gives == "study"
    makes: Literal["artifact", "report", "search"] = "search" if searches else "report" if measures else "artifact"
    for place in (recipe.out / step.name, *_beside(recipe, step)):
        intrusion.refuse(place, reads)
        if ours:
            check_place(place, force=True, reads=reads, makes=makes)
            continue
        try:
            check_place(place, reads=reads, makes=makes)
        except OutputExistsError as error:
            if not place.exists():
                raise
            try:
                check_place(place, force=True, reads=reads, makes=makes)
                hint = f"Move it, or choose another `out`; --force-from {step.name} replaces it."
            except OutputExistsError:
                hint = "Move it, or choose another `out`."
            raise OutputExistsError(f"{place} exists, and no run of this recipe made it.", hint=hint) from error


def _check_files(recipe: Recipe, places: Mapping[Path, str], reads: Collection[Path]) -> None:
    """Refuse a file that a step could not write, or that something else would be written over.

    Args:
        recipe: The recipe.
        places: Folder that a step makes -> the step.
        reads: What the steps read.

    Raises:
        SettingError: It lies in the folder of a step, or a second step or the record of the steps is written there.
        OutputExistsError: It belongs to something else.
        OutputError: It cannot be written.
    """
    written = {real_path(recipe.out / name): "tlopt itself" for name in (STATE, LOCK)}
    for step in recipe.steps:
        outputs = {one.name: one.setting.output for one in settings.parameters(VERBS[step.verb].function())}
        for name, file in _paths(step).items():
            if (makes := outputs.get(name)) is None:
                continue
            where = f"{recipe.path}, step {step.name}: {name}"
            beside = recipe.out / f"{step.name}-{file.name.lstrip('.')}"
            hint = f'Name another file: {name} = "{beside}".'
            for folder in (located(file), *located(file).parents):
                if folder in places:
                    raise SettingError(f"{where} lies in the folder of the step {places[folder]}, {file}.", hint=hint)
            if (other := written.setdefault(real_path(file), f"the step {step.name}")) != f"the step {step.name}":
                raise SettingError(f"{where} is {file}, which {other} writes, too.", hint=hint)
            intrusion.check_file(file, makes=makes, reads=reads)
