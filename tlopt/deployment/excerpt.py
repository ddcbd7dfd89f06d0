"""One file of what some functions of tlopt need, taken from tlopt's own sources: it cannot differ from them."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class _Definition:
    """A top-level definition of a module.

    Args:
        names: What it defines.
        text: Its source, with the comment above it.
        needs: The names that occur in it; ``files.open_regular`` of a module of tlopt's as one.
    """

    names: tuple[str, ...]
    text: str
    needs: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class _Module:
    """A module, taken apart.

    Args:
        definitions: In their order.
        libraries: Name -> the import statement of another library that brings it.
        own: Name -> module of tlopt and name in it; an empty one for the module itself.
    """

    definitions: tuple[_Definition, ...]
    libraries: dict[str, str]
    own: dict[str, tuple[str, str]]


def excerpt(wanted: Sequence[tuple[str, str]]) -> str:
    """Return the source of a module that has some names of tlopt's, and all that these need.

    Args:
        wanted: Modules of tlopt's, and names defined in them.
    """
    chosen: dict[str, set[int]] = {}
    imports: set[str] = set()
    order: list[str] = []
    for module, name in wanted:
        _collect(module, name, chosen, imports, order)
    texts = [
        _plain(definition.text, _module(module).own)
        for module in order
        for number, definition in enumerate(_module(module).definitions)
        if number in chosen[module]
    ]
    taken = [name for module in order for i in chosen[module] for name in _module(module).definitions[i].names]
    alike = {name for name in taken if taken.count(name) > 1} - {"log"}
    assert not alike, f"defined twice: {alike}"
    kept = list(dict.fromkeys(texts))  # every module has the same line for its log
    return "\n".join(["from __future__ import annotations\n", *_statements(imports), "\n", "\n\n\n".join(kept)]) + "\n"


def _statements(imports: set[str]) -> list[str]:
    """Return import statements sorted, the standard library's first, one for all that comes from a module."""
    plain = sorted(line for line in imports if line.startswith("import "))
    together: dict[str, list[str]] = {}
    for line in sorted(imports.difference(plain)):
        source, _, name = line.partition(" import ")
        together.setdefault(source, []).append(name)
    lines = [*plain, *(f"{source} import {', '.join(names)}" for source, names in together.items())]
    return sorted(lines, key=lambda line: line.split()[1].partition(".")[0] not in sys.stdlib_module_names)


def _collect(module: str, name: str, chosen: dict[str, set[int]], imports: set[str], order: list[str]) -> None:
    """Add the definition of a name, and what it needs, before it."""
    found = _module(module)
    if name in found.own:  # brought from elsewhere under the same name
        _collect(*found.own[name], chosen, imports, order)
        return
    number = next(i for i, one in enumerate(found.definitions) if name in one.names)
    if number in chosen.setdefault(module, set()):
        return
    chosen[module].add(number)
    for need in sorted(found.definitions[number].needs):
        if need in found.own and found.own[need][1]:
            _collect(*found.own[need], chosen, imports, order)
        elif "." in need and need.partition(".")[0] in found.own:
            _collect(found.own[need.partition(".")[0]][0], need.partition(".")[2], chosen, imports, order)
        elif need in found.libraries:
            imports.add(found.libraries[need])
        elif any(need in one.names for one in found.definitions):
            _collect(module, need, chosen, imports, order)
    if module not in order:
        order.append(module)  # after those that it needs


@functools.cache
def _module(name: str) -> _Module:
    source = inspect.getsource(importlib.import_module(name))
    lines = source.splitlines()
    libraries: dict[str, str] = {}
    own: dict[str, tuple[str, str]] = {}
    definitions = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            _imported(node, libraries, own)
        elif names := tuple(_defined(node)):
            definitions.append((names, node))
    return _Module(
        definitions=tuple(
            _Definition(names=names, text=_source(lines, node), needs=frozenset(_needs(node, own)))
            for names, node in definitions
        ),
        libraries=libraries,
        own=own,
    )


def _imported(node: ast.Import | ast.ImportFrom, libraries: dict[str, str], own: dict[str, tuple[str, str]]) -> None:
    for alias in node.names:
        name = alias.asname or alias.name
        if isinstance(node, ast.Import):
            libraries[name] = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
        elif (node.module or "").partition(".")[0] != "tlopt":
            libraries[name] = f"from {node.module} import {alias.name}" + (
                f" as {alias.asname}" if alias.asname else ""
            )
        elif _is_module(str(node.module), alias.name):
            own[name] = (f"{node.module}.{alias.name}", "")
        else:
            own[name] = (str(node.module), alias.name)


def _is_module(package: str, name: str) -> bool:
    """Whether a name is that of a module, rather than of something defined in one."""
    is_package = hasattr(importlib.import_module(package), "__path__")
    return is_package and importlib.util.find_spec(f"{package}.{name}") is not None


def _defined(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from (item.id for item in ast.walk(target) if isinstance(item, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _needs(node: ast.stmt, own: Iterable[str]) -> Iterator[str]:
    """Yield the names that occur in a statement."""
    for item in ast.walk(node):
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id in own:
            yield f"{item.value.id}.{item.attr}"
        elif isinstance(item, ast.Name):
            yield item.id


def _source(lines: Sequence[str], node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(one.lineno for one in decorators)])
    while first > 1 and lines[first - 2].startswith("#"):
        first -= 1
    return "\n".join(lines[first - 1 : node.end_lineno])


def _plain(text: str, own: dict[str, tuple[str, str]]) -> str:
    """Return a source without the names of modules of tlopt's: what they stand before is in the same file."""
    modules = [re.escape(name) for name, (_, attribute) in own.items() if not attribute]
    return re.sub(rf"\b(?:{'|'.join(modules)})\.(?=\w)", "", text) if modules else text
