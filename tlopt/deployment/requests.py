"""What was asked of a deployment, against what its artifacts and its target can do: all before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.deployment.job import Input, Serving
from tlopt.errors import ArtifactError, SettingError, suggestion

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_MOST = 32  # images of a run, where neither the artifact nor the user says


def refuse_unused(target: str, uses: frozenset[str], serving: Serving) -> None:
    """Refuse settings that a target does not read.

    Raises:
        SettingError: One was given.
    """
    for name in serving.given():
        if name not in uses:
            used = ", ".join(f"--{one.replace('_', '-')}" for one in sorted(uses)) or "none of its kind"
            raise SettingError(f"{target} does not use --{name.replace('_', '-')}.", hint=f"It uses {used}.")


def backend(artifacts: Sequence[Artifact], target: str, serves: Mapping[str, tuple[str, ...]], asked: str) -> str:
    """Return what runs the artifacts.

    Raises:
        SettingError: No artifact was given.
        ArtifactError: The target does not serve an artifact's kind, or not with what it was made for or asked for.
            Or it is an engine without weights.
    """
    if not artifacts:
        raise SettingError("deploy needs at least one artifact.")
    for one in artifacts:
        if one.card.kind not in serves:
            raise ArtifactError(
                f"{target} does not serve {one.path}: it is of kind {one.card.kind}, "
                f"and {target} takes {' or '.join(serves)}.",
                hint=_MAKES[one.card.kind].format(one.path),
            )
        if one.card.kind == "tensorrt" and one.card.engine.options.strip_weights:
            raise ArtifactError(
                f"{one.path} was built without weights, and a deployment has nothing to put them back in.",
                hint="Build it again without --strip-weights.",
            )
    card, path = artifacts[0].card, artifacts[0].path
    runtimes = serves[card.kind]
    if asked and asked not in runtimes:
        raise ArtifactError(
            f"{target} does not run an {card.kind} artifact with {asked!r}.", hint=suggestion(asked, runtimes)
        )
    if card.kind == "onnx" and card.precision == "fp8":
        raise ArtifactError(
            f"{path} is in fp8. {' and '.join(runtimes)} have no kernels for it.",
            hint=f"Build an engine of it: tlopt build {path}. Or quantize its source to int8.",
        )
    if asked or not card.made_for:
        return asked or runtimes[0]
    if card.made_for not in runtimes:
        hint = f"Build an engine of it: tlopt build {path}." if card.made_for == "tensorrt" else ""
        raise ArtifactError(
            f"{path} was quantized for {card.made_for}, and {target} runs {card.kind} artifacts with "
            f"{' or '.join(runtimes)}.",
            hint=hint or f"Quantize its source again with --for {runtimes[0]}.",
        )
    return card.made_for


_MAKES = {
    "torch": "tlopt export makes an onnx artifact of it: tlopt export {}.",
    "onnx": "tlopt build makes an engine of it: tlopt build {}.",
    "tensorrt": "Deploy the onnx artifact that it was built from.",
}


def name(asked: str, artifact: Artifact) -> str:
    """Return the model's name: the one asked for, or the folder's made to fit.

    Raises:
        SettingError: Servers refuse the name.
    """
    if not asked:
        fitting = re.sub(r"[^A-Za-z0-9_.-]+", "-", artifact.name).strip("-._")[:63].rstrip("-._")
        return fitting or "model"
    if not _NAME.fullmatch(asked):
        raise SettingError(
            f"The name of a model is part of a path and of an address; {asked!r} cannot be.",
            hint="Take 1 to 63 letters, digits, dots, hyphens and underscores, the first a letter or a digit.",
        )
    return asked


def input_kind(artifact: Artifact, target: str, takes: tuple[Input, ...], asked: Input | None) -> Input:
    """Return what a request holds.

    Raises:
        SettingError: The target does not take that.
        ArtifactError: The artifact is an engine that takes floats, and pixels were asked for.
    """
    kind = asked or takes[0]
    if kind not in takes:
        raise SettingError(f"{target} does not take --input {kind}.", hint=f"It takes {' or '.join(takes)}.")
    if kind == "pixels" and artifact.card.kind == "tensorrt" and not artifact.card.preprocess.folded:
        raise ArtifactError(
            f"{artifact.path} takes normalized floats, and an engine cannot be changed to take pixels.",
            hint="Export the network with --input uint8 and build the engine again.",
        )
    return kind


def max_batch(artifacts: Sequence[Artifact], asked: int | None) -> int:
    """Return the most images of a run.

    Raises:
        SettingError: The artifact does not take as many, or takes no other number than its own.
    """
    path, card = artifacts[0].path, artifacts[0].card
    if card.kind == "tensorrt":
        least = max(one.card.engine.profile.min_batch for one in artifacts)
        most = min(one.card.engine.profile.max_batch for one in artifacts)
        if asked is not None and not least <= asked <= most:
            raise SettingError(
                f"max_batch is {asked}, and the engine {path} takes {_span(least, most)} images.",
                hint="Build it again with another --max-batch." if asked > most else f"Take at least {least}.",
            )
        return most if asked is None else asked
    fixed = card.onnx.fixed_batch if card.kind == "onnx" else 0
    if fixed and asked not in (None, fixed):
        raise SettingError(
            f"max_batch is {asked}, and each run of {path} takes exactly {fixed}.",
            hint="Leave --max-batch out, or export the network again: tlopt export leaves the batch free.",
        )
    return fixed or asked or _MOST


def _span(least: int, most: int) -> str:
    return f"{least} to {most}" if least < most else f"exactly {most}"


def _network(card: Card) -> tuple[object, ...]:
    """Return what engines of one network have in common."""
    engine = card.engine
    return card.classes, card.preprocess, engine.onnx.artifact, engine.profile.shape, engine.flavour


def refuse_several(artifacts: Sequence[Artifact], target: str, *, several: bool) -> None:
    """Refuse artifacts that cannot become one model.

    Raises:
        ArtifactError: The target takes one; or they are no engines of one network, each for GPUs of its own.
    """
    if len(artifacts) == 1:
        return
    engines = all(one.card.kind == "tensorrt" for one in artifacts)
    if not several or not engines:
        raise ArtifactError(
            f"{target} makes one model, and got {len(artifacts)} artifacts.",
            hint="Deploy each engine for itself, for its GPU." if engines else "Deploy each into a folder of its own.",
        )
    path, first = artifacts[0].path, artifacts[0].card
    gpus = dict.fromkeys(first.engine.targets, path)
    for other in artifacts[1:]:
        card = other.card
        if _network(card) != _network(first):
            raise ArtifactError(
                f"{other.path} is no engine of the network that {path} is of.",
                hint="Deploy engines together that tlopt build made of one onnx artifact.",
            )
        for gpu in card.engine.targets:
            if gpu in gpus:
                raise ArtifactError(f"{gpus[gpu]} and {other.path} are both for {gpu}.", hint="Leave one of them out.")
            gpus[gpu] = other.path
