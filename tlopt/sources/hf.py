"""timm's networks from a hub of Hugging Face: weights from safetensors files, at one revision.

A model is named ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``. What is kept in a card says the commit and the
architecture as well, so that an artifact opens without the hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tlopt.errors import ArtifactError, PluginError
from tlopt.networks import vision_ops, weights
from tlopt.preprocess import Preprocess
from tlopt.reading import files
from tlopt.reading.names import shown_name
from tlopt.reading.schema import SchemaError, parse_json
from tlopt.sources import timm as architectures
from tlopt.sources._naming import REACHING
from tlopt.sources.timm import replace_head

vision_ops.declare()
import huggingface_hub  # noqa: E402 - after the declaration that timm's import of torchvision needs
from timm.data import resolve_data_config  # noqa: E402

__all__ = ["build", "class_names", "load", "names", "pinned", "preprocess", "replace_head"]

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HINT = "Check the name and the connection. Or give a local file: --model timm:ARCHITECTURE --weights FILE.safetensors."


def names() -> tuple[str, ...]:
    """Return nothing: a hub has too many models to list."""
    return ()


def build(name: str, *, classes: int, architecture: str = "", **options: Any) -> nn.Module:
    """Return the architecture with random weights.

    Raises:
        PluginError: The name does not say the architecture, and the hub cannot be reached.
    """
    if not architecture:
        architecture, own = _architecture(_config(name), name)
        options = {**own, **options}
    return architectures.build(architecture, classes=classes, **options)


def load(name: str, *, classes: int, **options: Any) -> tuple[nn.Module, Preprocess]:
    """Return the model with its weights and its preprocessing.

    Raises:
        PluginError: The hub cannot be reached, or has no network of timm with safetensors under this name.
        ArtifactError: The weights do not fit the architecture.
    """
    config = _config(name)
    model = build(name, classes=_width(config, name), **options)
    file = _fetched(name, weights.FILE)
    try:
        model.load_state_dict(weights.read(file))
    except RuntimeError as error:
        raise ArtifactError(
            f"The weights of hf:{shown_name(name)} do not fit its architecture: {str(error).splitlines()[-1].strip()}",
            hint="Load the network with timm, save its state with safetensors, and give it with --weights.",
        ) from error
    given = preprocess(name, model)
    if classes:
        replace_head(model, classes)
    return model, given


def preprocess(name: str, model: nn.Module) -> Preprocess:  # noqa: ARG001 - part of a source's contract
    """Return the preprocessing that the hub records for a model.

    Raises:
        PluginError: The hub cannot be reached, or what it records makes no sense.
    """
    config = _config(name)
    found = config.get("pretrained_cfg", config)
    try:
        for field in ("input_size", "mean", "std"):  # timm would take ImageNet's for granted
            found[field]
        return architectures.recorded(resolve_data_config({}, pretrained_cfg=found))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _wrong(name, f"its config.json says nothing usable on preprocessing ({error})") from error


def pinned(name: str) -> str:
    """Return the name with the commit and the architecture that it stands for now.

    Raises:
        PluginError: The hub cannot be reached.
    """
    config = _config(name)
    architecture, own = _architecture(config, name)
    commit = _fetched(name, "config.json").parent.name
    options = "&".join(f"{key}={value}" for key, value in {"architecture": architecture, **own}.items())
    return f"{name.partition('@')[0]}@{commit}?{options}"


def class_names(name: str) -> tuple[str, ...] | None:
    """Return the names of the classes that the hub records; None if it records none."""
    found = _config(name).get("label_names")
    return tuple(map(str, found)) if isinstance(found, list) and len(found) > 1 else None


def _config(name: str) -> Mapping[str, Any]:
    """Return what the hub says of a model."""
    try:
        found = parse_json(files.read_text(_fetched(name, "config.json")), finite=False)
    except (SchemaError, OSError, ValueError) as error:
        raise _wrong(name, f"its config.json cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise _wrong(name, "its config.json is no table")
    return found


def _architecture(config: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """Return timm's name of the architecture, and the options that are plain values."""
    found, own = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(found, str) or not isinstance(own, dict):
        raise _wrong(name, "it is no network of timm: its config.json names no architecture")
    # The others would read files, or cannot be written into a name.
    plain = {key: value for key, value in own.items() if isinstance(value, bool | int | float | str)}
    if reaching := plain.keys() & set(REACHING):
        raise _wrong(name, f"its config.json sets {min(reaching)}")
    if unknown := own.keys() - plain.keys():
        raise _wrong(name, f"its config.json has an option that is no plain value: {shown_name(min(unknown))}")
    return found, plain


def _width(config: Mapping[str, Any], name: str) -> int:
    found = config.get("num_classes")
    if not isinstance(found, int) or found < 1:
        raise _wrong(name, "its config.json does not say the number of classes")
    return found


def _fetched(name: str, file: str) -> Path:
    """Return a file of a model, from the hub or from its cache."""
    if not _NAME.fullmatch(name):
        raise PluginError(f"A model of a hub is named hf:ORG/NAME or hf:ORG/NAME@REVISION, got {shown_name(name)!r}.")
    repository, _, revision = name.partition("@")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision or None))
    except Exception as error:
        # What the hub's client raises has no common class: HTTP errors, missing entries, no connection, offline mode.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        missing = "EntryNotFound" in type(error).__name__ and "Local" not in type(error).__name__
        why = f"it has no {file}" if missing else f"{file} cannot be reached: {reason}"
        raise _wrong(name, why) from error


def _wrong(name: str, why: str) -> PluginError:
    return PluginError(f"hf:{shown_name(name)} cannot be used: {why.rstrip('.')}.", hint=_HINT)
