"""The picture of a profile: how long the layers and the operators of a network take."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from tlopt.reading.names import drawn
from tlopt.reports.drawing import METADATA, style

_LONGEST = 44  # characters of a layer's name that are shown, from its end


def bars(layers: Sequence[tuple[str, str, float]], by_op: Mapping[str, float], *, title: str) -> str:
    """Draw the layers, slowest first, and beside them the operators.

    Args:
        layers: Name, operator and milliseconds of each layer to show.
        by_op: Operator -> milliseconds of all its layers.
        title: Above the picture.

    Returns:
        An SVG file's text.
    """
    operators = sorted(by_op, key=lambda op: -by_op[op])
    color = {op: f"C{min(place, 9)}" for place, op in enumerate(operators)}
    settings = {"svg.fonttype": "none", "svg.hashsalt": "tlopt", "font.size": 8}
    with style({**settings, "axes.spines.top": False, "axes.spines.right": False}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 1.3 + 0.2 * max(len(layers), len(operators))), layout="constrained")
        figure.suptitle(drawn(title))
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        total = sum(by_op.values())
        for axes, names, taken, ops in (
            (left, [_short(name) for name, _, _ in layers], [ms for _, _, ms in layers], [op for _, op, _ in layers]),
            (right, [drawn(op) for op in operators], [by_op[op] for op in operators], operators),
        ):
            places = range(len(names))
            shares = axes.barh(places, taken, color=[color[op] for op in ops])
            axes.bar_label(shares, [f"{ms / total:.1%}" for ms in taken], padding=3)
            axes.set_yticks(places, names)
            axes.invert_yaxis()
            axes.margins(x=0.12)
            axes.set_xlabel("ms under the profiler")
        left.set_title("slowest layers, coloured by operator")
        right.set_title("operators")
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata=METADATA)
    return target.getvalue()


def _short(name: str) -> str:
    """Return the end of a long name: fused layers have the names of all they are made of."""
    text = name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]
    return drawn(text)
