"""The names of models, taken apart: ``source:name``, with options of the architecture after a question mark."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tlopt import registry, trusted
from tlopt.errors import PluginError, SettingError, suggestion
from tlopt.reading.names import shown_name

# Options that would make a source read files or addresses that the name of a model chose.
REACHING = ("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "weights")
_LONGEST = 2000  # characters of a model's name with its options


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's name, taken apart.

    Args:
        source: The plug-in that makes it.
        name: Its name there.
        options: Of its architecture.
        is_own: Whether it is a function in a module of the user's own.
    """

    source: ModuleType
    name: str
    options: dict[str, Any]
    is_own: bool = False


def parse(model: str, named_by: str = "") -> Model:
    """Find the source of a model, and whether its code may run.

    Args:
        model: ``source:name``.
        named_by: The artifact whose card names the model; empty where a person does.

    Raises:
        PluginError: The source is unknown, or a module that is not trusted.
        SettingError: An option makes no sense.
    """
    source, colon, rest = model.partition(":")
    if source == "module":  # the plug-in for the user's own modules goes by their names
        model = rest
        source, colon, rest = model.partition(":")
    if not colon or not rest or len(model) > _LONGEST:
        raise PluginError(
            f"A model is named source:name, got {shown_name(model[:100])!r}.",
            hint="For example pip:efficientnet_lite0 or timm:resnet18; tlopt list models shows more.",
        )
    name, _, query = rest.partition("?")
    options = dict(_option(pair, model) for pair in (query.split("&") if query else ()))
    if source in registry.names("sources"):
        if refused := sorted(options.keys() & set(REACHING)):
            raise SettingError(
                f"The option {refused[0]} of {shown_name(model)} is not an option of an architecture.",
                hint="Give a local file of weights with --weights FILE.safetensors.",
            )
        return Model(source=registry.load("sources", source), name=name, options=options)
    if not named_by and not trusted.exists(source):
        registry.load("sources", source)  # names the known sources, with the close match first
    trusted.allow(model, named_by=named_by)
    return Model(source=registry.load("sources", "module"), name=f"{source}:{name}", options=options, is_own=True)


def expect_known(model: str) -> None:
    """Refuse a model that its source does not know, without opening it.

    Raises:
        PluginError: The source or the model is unknown, or its code is not trusted.
        MissingLibraryError: The source's library is not installed.
        SettingError: An option makes no sense.
    """
    found = parse(model)
    known = {name.partition(".")[0] for name in found.source.names()}  # behind a period, weights are named
    if known and found.name.partition(".")[0] not in known:
        where = model.partition(":")[0]
        raise PluginError(f"{where} has no model {shown_name(found.name)!r}.", hint=suggestion(found.name, known))


def expect_known_at_once(*models: str) -> None:
    """Refuse a model of which it is known without its source's library that there is none.

    Raises:
        PluginError: The source or the model is unknown.
        SettingError: An option makes no sense.
    """
    for model in models:
        source = model.removeprefix("module:").partition(":")[0]
        if source in _LIGHT or not (source in registry.names("sources") or trusted.exists(source)):
            expect_known(model)


_LIGHT = ("pip",)  # sources that list their models without a library


def _option(pair: str, model: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals or not key.isidentifier():
        raise SettingError(f"An option of a model is name=value, got {shown_name(pair)!r} in {shown_name(model)!r}.")
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return key, value
    return key, found if _is_plain(found) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)
