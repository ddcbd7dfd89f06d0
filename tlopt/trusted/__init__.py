"""Whose code may run: the modules of models that tlopt does not bring.

A model ``mine:net`` is a function in a module of the user's own. Calling it runs whatever the module holds, so it is
done on a word of the person who runs the command only: the model was named by that person, or the module was
(``--trust mine``, `trust`, the environment variable ``TLOPT_TRUST``). What a card or a recipe says is no such word.

A model that a person named is remembered in ``$XDG_CONFIG_HOME/tlopt/trusted.json``, with the place and the sha256 of
its module. So artifacts made with it open without asking until the module changes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tlopt.errors import PluginError, SettingError
from tlopt.reading.names import shown_name
from tlopt.trusted import memory
from tlopt.trusted.places import Place, find_spec, locate

VARIABLE = "TLOPT_TRUST"

# A process trusts the same modules in all its threads: these are no context variables.
_modules: set[str] = set()
_allowed: set[str] = set()  # models
_folders: dict[str, str] = {}  # module of such a model -> the folder to search for it, empty for the usual search
_lock = threading.RLock()
_ENGINE = re.compile(r"engine:[0-9a-f]{64}")  # see `tlopt.trusted.engines`
# Whether the models named in this context were read from a file rather than named by a person.
_read: ContextVar[bool] = ContextVar("tlopt_models_read_from_a_file", default=False)


def trust(*modules: str) -> None:
    """Let models of these modules run their code, and artifacts that name them, in this process.

    Args:
        modules: Names of modules, as in ``mine`` for the model ``mine:net``; what is below a package is meant, too.
            ``engine:SHA256`` names a version-compatible engine, whose code runs when it is opened.

    Raises:
        SettingError: A name is no module's, and no engine's.
    """
    with _lock:
        _modules.update(_checked(modules))


@contextlib.contextmanager
def trusting(modules: Iterable[str]) -> Iterator[None]:
    """Trust these modules for the length of the block.

    Raises:
        SettingError: A name is no module's.
    """
    new = set(_checked(modules)) - _modules
    with _lock:
        _modules.update(new)
    try:
        yield
    finally:
        with _lock:
            _modules.difference_update(new)


def named(word: str) -> bool:
    """Return whether this process was told to trust a module or an engine by this very name."""
    with _lock:
        return word in _modules


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Take the models named inside the block for what a file says, not for what a person does."""
    token = _read.set(True)
    try:
        yield
    finally:
        _read.reset(token)


def allow(model: str, *, named_by: str = "") -> None:
    """Check that the code of a model may run, before anything of it is imported.

    Args:
        model: ``module:function``, perhaps with options.
        named_by: The artifact whose card names it; empty where the caller does.

    Raises:
        PluginError: It may not.
    """
    module = model.partition(":")[0]
    with _lock:
        if model in _allowed:
            return
        known = memory.remembered(model)
        by_hand = not named_by and not _read.get()
        if by_hand or _is_trusted(module, _modules):
            folder = _folder(module, known)
            # What a card names is remembered only if it was before: its module changed, and the person says it is well.
            if not named_by or known:
                memory.remember(model, folder)
        elif _is_trusted(module, _checked(os.environ.get(VARIABLE, "").split(","))):
            # A variable was set some time ago: it does not speak of what lies in the folder of today.
            folder = _folder(module, known, current=False)
        elif unchanged := [entry for entry in known if _same(module, entry)]:
            folder = _one(model, unchanged)
        else:
            raise _refusal(model, module, named_by, changed=bool(known))
        _allowed.add(model)
        _folders[module] = folder


def _refusal(model: str, module: str, named_by: str, *, changed: bool) -> PluginError:
    where = f" of {shown_name(named_by)}" if named_by else ""
    if changed:
        text = f"The module of the model {shown_name(model)}{where} has changed, or moved, since you named it last."
    else:
        text = (
            f"The model {shown_name(model)}{where} is of no source that tlopt knows, and code that a file names is "
            "not run unasked."
        )
    name = shown_name(module)
    hint = f"Only if {name} is a module of your own: add --trust {name}, or from Python call tlopt.trust({name!r})."
    if _is_pythons(module):
        hint = "No module of Python itself makes networks. Whoever wrote this name may have meant harm."
    return PluginError(text, hint=hint)


def _is_pythons(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


@contextlib.contextmanager
def importable(module: str) -> Iterator[None]:
    """Search the folder of a module that may run for modules, after all others, inside the block."""
    folder = _folders.get(module, "")
    if not folder or folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def state() -> dict[str, Any]:
    """Return what this process trusts, as JSON types, for another one that it starts."""
    with _lock:
        folders = dict(_folders)
        for module, folder in _folders.items():
            # The other one need not search what this one does: the folder of a script that runs, for one.
            if not folder and (place := locate(module)):
                folders[module] = place.folder
        return {"modules": sorted(_modules), "allowed": sorted(_allowed), "folders": folders}


def restore(found: dict[str, Any]) -> None:
    """Trust what the process does that started this one."""
    with _lock:
        _modules.update(found["modules"])
        _allowed.update(found["allowed"])
        _folders.update(found["folders"])


def exists(module: str) -> bool:
    """Return whether there is a module of this name, without importing it: where Python looks, here, or remembered."""
    if module in sys.modules or "." in module or find_spec(module, None) is not None:
        return True
    return find_spec(module, [str(Path.cwd())]) is not None or any(
        model.partition(":")[0] == module for model, _ in memory.entries()
    )


def _folder(module: str, known: Iterable[Place], *, current: bool = True) -> str:
    """Return the folder to search for a module that may run, empty for the usual search."""
    if module in sys.modules or locate(module) is not None:
        return ""
    if current and locate(module, [str(Path.cwd())]) is not None:
        return str(Path.cwd())
    return next((place.folder for place in known if locate(module, [place.folder]) is not None), "")


def _same(module: str, known: Place) -> bool:
    return locate(module, [known.folder]) == known


def _one(model: str, places: list[Place]) -> str:
    """Return the folder of a model's module, where a person named modules of one name in several folders."""
    module = model.partition(":")[0]
    if (usual := locate(module)) is not None:
        if usual not in places:  # it is this one that would run
            raise _refusal(model, module, "", changed=True)
        return ""
    here = locate(module, [str(Path.cwd())])
    found = [place for place in places if place == here] or places
    if len({place.file for place in found}) > 1:
        raise PluginError(
            f"The model {shown_name(model)} may be of {' or '.join(sorted(place.file for place in found))}.",
            hint="Run the command from the folder that holds the right one.",
        )
    return found[0].folder


def _is_trusted(module: str, modules: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in modules)


def _checked(modules: Iterable[str]) -> list[str]:
    found = [name.strip() for name in modules if name.strip()]
    for name in found:
        if _ENGINE.fullmatch(name):
            continue
        if not all(part.isidentifier() for part in name.split(".")):
            raise SettingError(
                f"{shown_name(name)} is not the name of a module.",
                hint="For the model mine:net, the module is mine.",
            )
        if _is_pythons(name):
            raise SettingError(
                f"{name} is part of Python. It makes no network, and its functions may do anything.",
                hint="Name a module of your own.",
            )
    return found
