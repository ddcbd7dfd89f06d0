"""Opening models: with random weights, with those of their sources, or with those of an artifact."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.errors import ArtifactError, PluginError, StageError, TloptError
from tlopt.networks import ending, layout, padding, prefixes, removal, reparametrized, weights
from tlopt.preprocess import Preprocess
from tlopt.reading.names import shown_name
from tlopt.sources._checks import SAME, check
from tlopt.sources._naming import Model, parse

log = logging.getLogger(__name__)


def build(model: str, *, classes: int, size: int, named_by: str = "") -> nn.Module:
    """Return the architecture of a model with random weights.

    Args:
        model: ``source:name``.
        classes: Number of logits.
        size: Side of the square input, pixels.
        named_by: The artifact whose card names the model; empty where a person does.

    Raises:
        PluginError: The source or the model is unknown, or its code is not trusted.
        MissingLibraryError: The source's library is not installed.
    """
    found = parse(model, named_by)
    return padding.fix(_build(found, classes, found.options), size)


def check_artifact(path: Path) -> None:
    """Check, before any work, that an artifact can be opened and that the code it needs may run.

    Raises:
        ArtifactError: It is no artifact, or damaged.
        PluginError: Its model's source is unknown, or a module that is not trusted.
    """
    artifact = Artifact.load(path)
    if artifact.card.kind == "torch":
        parse(artifact.card.model, str(artifact.path))


def load(
    model: str,
    *,
    classes: int,
    pretrained_classes: int = 0,
    size: int = 0,
    weights_file: Path | None = None,
    **options: Any,
) -> tuple[nn.Module, Preprocess]:
    """Return a pretrained model and how its images are preprocessed.

    Args:
        model: ``source:name``.
        classes: Number of logits of the new classifier; 0 keeps the pretrained one.
        pretrained_classes: How many logits that one has, for a model of the user's own; 0 if it is not known.
        size: Side of the square input, pixels; 0 for the model's own.
        weights_file: A safetensors file that takes the place of the source's weights.
        options: Of the architecture ("drop_path_rate"), besides those in the name.

    Raises:
        PluginError: The source or the model is unknown, its weights cannot be reached, or it does not run on images of
            this size.
        MissingLibraryError: The source's library is not installed.
        ArtifactError: The weights file does not fit the architecture.
    """
    found = parse(model)
    options = {**found.options, **options}
    if weights_file is None:
        if found.is_own:
            classes = classes or pretrained_classes
        module, preprocess = found.source.load(found.name, classes=classes, **options)
        module = reparametrized.renew(module)
        module = _as_built(found, module, classes, options) if classes else module
    else:
        module, preprocess = _from_file(found, weights_file, classes, options)
    if size:
        preprocess = Preprocess.from_dict({**preprocess.to_dict(), "size": size})
    check(model, module, preprocess.size, own=not size)
    module = padding.fix(module, preprocess.size)
    return _settled(found, module, preprocess.size), preprocess


def pinned(model: str) -> str:
    """Return the name under which a model is kept in a card: the same model at any later time.

    Raises:
        PluginError: The source or the model is unknown or cannot be reached.
    """
    found = parse(model)
    if found.is_own or not hasattr(found.source, "pinned") or "architecture" in found.options:
        return model
    name, given = found.source.pinned(found.name), model.partition("?")[2]
    return f"{model.partition(':')[0]}:{name}{'&' * bool(given)}{given}"


def class_names(model: str) -> tuple[str, ...] | None:
    """Return the names of a pretrained model's classes, if its source records them."""
    found = parse(model)
    names: tuple[str, ...] | None = getattr(found.source, "class_names", lambda _: None)(found.name)
    return names


def open_model(artifact: Artifact) -> nn.Module:
    """Rebuild the model of a torch artifact, in evaluation mode.

    Raises:
        ArtifactError: The artifact is not of kind torch, or its weights do not fit.
        PluginError: The model's source is unknown here, or it is a module that is not trusted.
    """
    card = artifact.expect("torch").card
    model = build(card.model, classes=len(card.classes), size=card.preprocess.size, named_by=str(artifact.path))
    removal.repeat(model, card.torch.removed_blocks, where=str(artifact.path))
    file = artifact.payload(".safetensors")
    state = weights.read(file)
    reparametrized.folded_as(model, state)
    state = reparametrized.renamed(state, model.state_dict())
    weights.restore(model, state, groups=card.torch.groups, where=str(file))
    return _settled(parse(card.model, str(artifact.path)), model, card.preprocess.size).eval()


def keep(model: nn.Module, folder: Path, card: Card) -> Card:
    """Write a network's weights, open them again, and return the card with what that needs.

    So nothing is sealed that could not be opened later, when the training that made it is gone.

    Args:
        model: The network, in evaluation mode, on the CPU.
        folder: Where to write to.
        card: What else the card says.

    Raises:
        StageError: The network cannot be opened again, or computes something else then.
    """
    size = card.preprocess.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    groups, answers = weights.save(model, folder), ending.kind_of(model, images)
    details = replace(card.torch, groups=groups, removed_blocks=removal.removed(model), answers=answers)
    card = replace(card, files={weights.FILE: ""}, details=details)
    artifact = Artifact(path=folder, card=card)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            wanted, found = model(images), open_model(artifact)(images)
    except (TloptError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise StageError(
            f"The network {shown_name(artifact.card.model)} could not be opened again from its weights: {reason}",
            hint=_REPORT,
        ) from error
    difference = float((found - wanted).abs().max() / wanted.std().clamp(min=1e-6))
    if not difference <= SAME:
        raise StageError(
            f"The network {shown_name(artifact.card.model)} answers differently after it is opened again: "
            f"logits differ by {difference:.2g} of their spread.",
            hint=_REPORT,
        )
    return card


_REPORT = "Its architecture is not rebuilt as it was: report the model's name, or use another one."


def _settled(found: Model, model: nn.Module, size: int) -> nn.Module:
    """Settle the memory layout of a network; those of the libraries work in the faster one, and need no trial."""
    return layout.settle(model, size) if found.is_own else model


def _build(model: Model, classes: int, options: dict[str, Any]) -> nn.Module:
    try:
        module: nn.Module = model.source.build(model.name, classes=classes, **options)
    except TloptError:
        raise
    except Exception as error:
        if model.is_own or not options:
            raise
        # What a library makes of an option that it does not know has no common error.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise PluginError(
            f"The model {shown_name(model.name)} cannot be built with its options: {shown_name(reason)}",
            hint="Check the options after the question mark.",
        ) from error
    return reparametrized.renew(module)


def _from_file(found: Model, file: Path, classes: int, options: dict[str, Any]) -> tuple[nn.Module, Preprocess]:
    """Load a file strictly, then give the model the classifier asked for.

    The file may hold the pretrained classifier or one of the wanted width.
    """
    state = weights.read(file)
    source, name = found.source, found.name
    own = _build(found, _PROBE, options).state_dict()
    state = reparametrized.renamed(prefixes.bare(state, own.keys(), file), own)
    heads = {len(state[key]) for key, tensor in own.items() if tensor.shape[:1] == (_PROBE,) and key in state}
    head = heads.pop() if len(heads) == 1 else classes
    model = _build(found, head, options)
    weights.load(model, _strict(model, state, file))
    preprocess = source.preprocess(name, model)
    if classes and classes != head:
        source.replace_head(model, classes)
        model = _as_built(found, model, classes, options)
    return model, preprocess


def _as_built(found: Model, model: nn.Module, classes: int, options: dict[str, Any]) -> nn.Module:
    """Return a model with a new classifier as its architecture is built with so many classes.

    It will be opened again that way. Where a new classifier is not what the architecture has (some of
    timm's drop their second head with it, others have one without a bias), the architecture is built
    anew and takes over the weights that match.
    """
    with torch.random.fork_rng(devices=[]):
        built = _build(found, classes, options)
    own, wanted = model.state_dict(), built.state_dict()
    if {name: tensor.shape for name, tensor in own.items()} == {name: t.shape for name, t in wanted.items()}:
        return model
    matching = {name: own[name] for name, tensor in wanted.items() if name in own and own[name].shape == tensor.shape}
    log.info("%d of %d tensors of the classifier are new", len(wanted) - len(matching), len(wanted))
    weights.load(built, {**wanted, **matching})
    return built


_PROBE = 1009  # a prime that no layer is as wide as: marks the classifier's own tensors


def _strict(model: nn.Module, state: dict[str, Any], file: Path) -> dict[str, Any]:
    own = model.state_dict()
    # Old checkpoints lack the counters of their batch norms; nothing that is computed reads them.
    state = {**{key: own[key] for key in own if key.endswith("num_batches_tracked")}, **state}
    wrong = sorted(own.keys() ^ state.keys()) or sorted(k for k in own if own[k].shape != state[k].shape)
    if wrong:
        [(prefix, count)] = prefixes.prefixes(state, own.keys()).most_common(1) or [("", 0)]
        behind = f" {count} of its names are the model's behind the prefix {prefix!r}." if prefix else ""
        raise ArtifactError(
            f"{file} does not fit the model: {len(wrong)} tensors differ, first {wrong[0]}.{behind}",
            hint="The file's tensor names and shapes must be exactly the model's.",
        )
    for name in sorted(own):
        if own[name].is_floating_point() and not state[name].is_floating_point():
            raise ArtifactError(
                f"{file}: the weights {name!a} are of type {str(state[name].dtype).removeprefix('torch.')}, "
                "the model's are floating-point numbers.",
                hint="Quantized weights need their scales: give the weights from before they were quantized.",
            )
    return state
