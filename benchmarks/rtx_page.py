"""The table of benchmarks/rtx_engines.py, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

ENOUGH = 0.9  # of the multiply-adds


def page(found: dict[str, Any], variants: Sequence[str]) -> str:
    """Return the results as Markdown.

    Args:
        found: What was built, and the conditions.
        variants: In the order of the columns.
    """
    results, about = found["results"], found["conditions"]
    single = [name for name in variants if name != "profiles"]
    rows = [(model, name, row[name]) for model, row in results.items() for name in single if name in row]
    built = [row for _, _, row in rows if row["built"]]
    enough = [row for row in built if row["share"] >= ENOUGH]
    lines = [
        "# Engines of TensorRT for RTX",
        "",
        f"{about['builder']} builds {len(built)} of {len(rows)} engines of {len(results)} networks, without a GPU.",
        f"In {len(enough)} of the {len(built)}, at least 90 % of the multiply-adds compute in the wanted precision.",
        "",
        f"A cell is that share in percent. The networks have random weights and take {about['pixels']} px. "
        f"The profile is {' / '.join(map(str, about['batches']))} images.",
        "",
        "| network | " + " | ".join(single) + " |",
        "|---" * (len(single) + 1) + "|",
        *(
            f"| {model} | " + " | ".join(_cell(row.get(name)) for name in single) + " |"
            for model, row in results.items()
        ),
        "",
        "## Size and time",
        "",
        "Megabytes, and seconds of the build with its checks.",
        "",
        "| network | " + " | ".join(f"{name}, MB | s" for name in single) + " |",
        "|---" * (2 * len(single) + 1) + "|",
        *(
            f"| {model} | " + " | ".join(_size(row.get(name)) for name in single) + " |"
            for model, row in results.items()
        ),
    ]
    if built:
        lines += ["", f"Half of the builds took less than {statistics.median(row['build_s'] for row in built):.1f} s."]
    lines += [*_profiles(results), *_faults(rows)]
    if notes := found.get("notes", []):
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines += ["", "## Conditions", "", f"Processor: {about['processor']}. Versions: {versions}.", ""]
    return "\n".join([*lines, f"Command: `{about['command']}`"]) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{100 * row['share']:.1f}" if row["built"] else "–"


def _size(row: dict[str, Any] | None) -> str:
    return f"{row['size_mb']:.1f} | {row['build_s']:.1f}" if row is not None and row["built"] else " | "


def _profiles(results: dict[str, Any]) -> list[str]:
    found = {model: row["profiles"] for model, row in results.items() if row.get("profiles", {}).get("built")}
    if not found:
        return []
    names = list(next(iter(found.values()))["profiles"])
    lines = [
        "",
        "## Profiles",
        "",
        "The int8 network with other smallest, tuned and largest batches: share in percent, MB.",
        "",
    ]
    lines += ["| network | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for model, row in found.items():
        cells = [row["profiles"][name] for name in names]
        lines.append(
            f"| {model} | " + " | ".join(f"{100 * cell['share']:.1f}, {cell['size_mb']:.1f}" for cell in cells) + " |"
        )
    return lines


def _faults(rows: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """Return what is not built and what computes in something else, with the reasons."""
    lines = []
    if missing := [f"- {model}, {name}: {row['why']}" for model, name, row in rows if not row["built"]]:
        lines += ["", "## What is not built", "", *missing]
    if short := [f"{model} {name}" for model, name, row in rows if row["built"] and row["share"] < ENOUGH]:
        lines += ["", f"Below 90 %: {', '.join(short)}."]
    reasons: dict[str, list[str]] = {}
    for model, name, row in rows:
        for reason, share in row.get("rest", {}).items():
            reasons.setdefault(reason, []).append(f"{model} {name} {100 * share:.1f}")
    if reasons:
        lines += ["", "## What computes in another type, and why", "", "Percent of all multiply-adds, by reason.", ""]
        lines += [f"- {reason}: {', '.join(found)}" for reason, found in reasons.items()]
    return lines
