"""Where pretrained models come from: one file per source.

A source module defines

    def names() -> tuple[str, ...]                           the models it knows, empty if it cannot list them
    def build(name, *, classes, **options) -> nn.Module      the architecture with random weights
    def load(name, *, classes, **options) -> (nn.Module, Preprocess)
                                                             with pretrained weights; `classes` 0 keeps
                                                             the pretrained classifier, any other number
                                                             puts a new one in its place

A model is named ``source:name``, with options of the architecture after a question mark
("timm:mobilenetv2_100?pad_type=same"). A source that is no file here is a module of the user's own,
and the name a function in it (see `tlopt.sources.module`).
"""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from tlopt import registry
from tlopt.artifact import Artifact
from tlopt.errors import ArtifactError, PluginError, SettingError
from tlopt.networks import padding, weights
from tlopt.preprocess import Preprocess


def build(model: str, *, classes: int, size: int) -> nn.Module:
    """Return the architecture of a model with random weights.

    Args:
        model: ``source:name``.
        classes: Number of logits.
        size: Side of the square input, pixels.

    Raises:
        PluginError: The source or the model is unknown.
        MissingLibraryError: The source's library is not installed.
    """
    source, name, options = _parse(model)
    module: nn.Module = source.build(name, classes=classes, **options)
    return padding.fix(module, size)


def load(
    model: str, *, classes: int, size: int = 0, weights_file: Path | None = None, **options: Any
) -> tuple[nn.Module, Preprocess]:
    """Return a pretrained model and how its images are preprocessed.

    Args:
        model: ``source:name``.
        classes: Number of logits of the new classifier; 0 keeps the pretrained one.
        size: Side of the square input, pixels; 0 for the model's own.
        weights_file: A safetensors file that takes the place of the source's weights.
        options: Of the architecture ("drop_path_rate"), besides those in the name.

    Raises:
        PluginError: The source or the model is unknown, or its weights cannot be reached.
        MissingLibraryError: The source's library is not installed.
        ArtifactError: The weights file does not fit the architecture.
    """
    source, name, own = _parse(model)
    if weights_file is None:
        module, preprocess = source.load(name, classes=classes, **{**own, **options})
    else:
        module, preprocess = _from_file(source, name, weights_file, classes, {**own, **options})
    if size:
        preprocess = Preprocess.from_dict({**preprocess.to_dict(), "size": size})
    return padding.fix(module, preprocess.size), preprocess


def open_model(artifact: Artifact) -> nn.Module:
    """Rebuild the model of a torch artifact, in evaluation mode.

    Raises:
        ArtifactError: The artifact is not of kind torch, or its weights do not fit.
        PluginError: The model's source is unknown here.
    """
    card = artifact.expect("torch").card
    model = build(card.model, classes=len(card.classes), size=card.preprocess.size)
    file = artifact.payload(".safetensors")
    state = weights.read(file)
    return weights.restore(model, state, groups=card.details.get("groups", {}), where=str(file)).eval()


def _from_file(
    source: ModuleType, name: str, file: Path, classes: int, options: dict[str, Any]
) -> tuple[nn.Module, Preprocess]:
    """Load a file strictly, then give the model the classifier asked for.

    The file may hold the pretrained classifier or one of the wanted width.
    """
    state = weights.read(file)
    own = source.build(name, classes=_PROBE, **options).state_dict()
    heads = {len(state[key]) for key, tensor in own.items() if tensor.shape == (_PROBE,) and key in state}
    head = heads.pop() if len(heads) == 1 else classes
    model = source.build(name, classes=head, **options)
    model.load_state_dict(_strict(model, state, file))
    preprocess = source.preprocess(name, model)
    if classes and classes != head:
        source.replace_head(model, classes)
    return model, preprocess


_PROBE = 1009  # a prime that no layer is as wide as: marks the classifier's own tensors


def _strict(model: nn.Module, state: dict[str, Any], file: Path) -> dict[str, Any]:
    own = model.state_dict()
    # Old checkpoints lack the counters of their batch norms; nothing that is computed reads them.
    state = {**{key: own[key] for key in own if key.endswith("num_batches_tracked")}, **state}
    wrong = sorted(own.keys() ^ state.keys()) or sorted(k for k in own if own[k].shape != state[k].shape)
    if wrong:
        raise ArtifactError(
            f"{file} does not fit the model: {len(wrong)} tensors differ, first {wrong[0]}.",
            hint="The file's tensor names and shapes must be exactly the model's.",
        )
    return state


def _parse(model: str) -> tuple[ModuleType, str, dict[str, Any]]:
    source, colon, name = model.partition(":")
    if not colon or not name:
        raise PluginError(
            f"A model is named source:name, got {model!r}.",
            hint="For example pip:efficientnet_lite0 or timm:resnet18; tlopt list models shows more.",
        )
    name, _, query = name.partition("?")
    options = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise SettingError(f"An option of a model is name=value, got {pair!r} in {model!r}.")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    if source in registry.names("sources"):
        return registry.load("sources", source), name, options
    if "." in source or _importable(source):
        return registry.load("sources", "module"), f"{source}:{name}", options
    # Names the known sources, with the close match first.
    return registry.load("sources", source), name, options


def _importable(name: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
