"""What mkdocs does besides: pages from outside of docs/, the results, and a reference of the public Python names.

The pages link to one another as they lie in the repository, so that they also work there. Here the links are turned
to where the pages lie in the site.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE")
# Linked from the pages, and shown as they are.
FOLDERS = ("benchmarks/results", "examples")

_LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s]+)(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside of docs/, and the page of the public Python names."""
    for name in TOP:
        if (ROOT / name).exists():
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).iterdir()):
            if path.is_file() and path.suffix != ".py":
                name = path.relative_to(ROOT).as_posix()
                files.append(File.generated(config, name, abs_src_path=str(path)))
    files.append(File.generated(config, "python.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links between the folders of the repository into links of the site."""
    below = page.file.src_uri.count("/")
    outside = page.file.src_uri in TOP

    def turned(match: re.Match[str]) -> str:
        target = match[1]
        if outside:
            return "results.md" if target == "benchmarks/results" else target.removeprefix("docs/")
        up = "../" * below
        target = target.replace("../" * (below + 1), up, 1) if target.startswith("../" * (below + 1)) else target
        return f"{up}results.md" if target.rstrip("/") == f"{up}benchmarks/results" else target

    return _LINK.sub(turned, markdown)


def reference() -> str:
    """Return a page with each public Python name, in groups."""
    import tlopt
    from tlopt.verbs import GROUPS, TABLE

    group_of = {verb.attribute: verb.group for verb in TABLE.values()}
    groups: dict[str, list[str]] = {name: [] for name in (*GROUPS, "Open and look", "Nouns", "Errors")}
    for name in tlopt.__all__:
        value = getattr(tlopt, name)
        if isinstance(value, type):
            group = "Errors" if issubclass(value, Exception) else "Nouns"
            groups[group].append(f"::: {value.__module__}.{value.__qualname__}\n")
        else:
            groups[group_of.get(name, "Open and look")].append(_function(name, value))
    head = (
        "# Python\n\nEach name is imported as `tlopt.NAME`. The functions take the settings of the command of the\n"
        "same name. [The commands](cli.md) explain each setting.\n"
    )
    return head + "".join(f"\n## {group}\n\n" + "\n".join(lines) for group, lines in groups.items())


def _function(name: str, value: Any) -> str:
    """Return the entry of a function: its settings one by one, as a caller gives them, then its docstring."""
    from tlopt.settings import flat_signature
    from tlopt.stages import Stage

    signature = inspect.signature(value) if isinstance(value, Stage) else flat_signature(value)
    shown, keywords = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            shown.append("*")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        shown.append(parameter.name + default)
    call = textwrap.fill(", ".join(shown), 84, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
    below = "    options: {show_root_heading: false, show_root_toc_entry: false, show_signature: false}\n"
    where = f"{value.__module__}.{value.__qualname__}"
    return f"### {name}\n\n```python\ntlopt.{name}(\n{call}\n)\n```\n\n::: {where}\n{below}"
