"""The accuracy-against-latency picture, as SVG that takes on the page's colours."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tlopt.reading.names import drawn, shown_name
from tlopt.reports.drawing import style

# Matplotlib needs a fixed colour; this one is replaced by the page's text colour.
_INK = "#010203"
# Paul Tol's bright scheme: told apart by colour-blind readers, legible on white and on black.
_COLORS = {"fp32": "#4477aa", "fp16": "#2a9d4a", "bf16": "#aa3377", "int8": "#e8743b", "fp8": "#b8a020"}
_ASIDE = "#888888"  # seen on white and on black
_MARKERS = {"torch": "o", "onnxruntime": "s", "openvino": "^", "tensorrt": "D"}
_NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tlopt",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One artifact on one backend.

    Args:
        label: The artifact's name.
        precision: Of its numbers; decides the colour.
        runtime: Backend, without the device; decides the marker.
        latency_ms: Of one image.
        accuracy: Share that is right, 0..1.
        low: Lower end of the accuracy's interval.
        high: Upper end of it.
        aside: Whether it did not come into question: drawn in grey, on the lower edge if its accuracy is not known.
    """

    label: str
    precision: str
    runtime: str
    latency_ms: float
    accuracy: float
    low: float
    high: float
    aside: bool = False


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both latency and accuracy, fastest first."""
    best: list[Point] = []
    for point in sorted((p for p in points if not p.aside), key=lambda p: (p.latency_ms, -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def picture(points: Sequence[Point], *, title: str = "", limit_ms: float | None = None) -> str:
    """Draw accuracy against latency with the Pareto front.

    Args:
        points: At least one that is not aside.
        title: Text alternative for readers who do not see it.
        limit_ms: Latency that was asked for; None for no limit.

    Returns:
        An ``<svg>`` element without fixed size.
    """
    with style(_STYLE):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.4, 4.7), layout="constrained")
        FigureCanvasAgg(figure)  # measures the texts, of which the SVG canvas knows nothing
        axes = figure.add_subplot()
        _scales(axes, points, limit_ms)
        best = front(points)
        _draw_front(axes, best)
        if limit_ms is not None:
            axes.axvline(limit_ms, color=_INK, alpha=0.6, linewidth=1.0, linestyle=(0, (1, 2)), zorder=2)
        _draw_aside(axes, [point for point in points if point.aside])
        shown = [point for point in points if not point.aside]
        for point in shown:
            _draw_point(axes, point, emphasized=point in best)
        _legend(axes, points, limit_ms)
        figure.canvas.draw()
        _label(figure, axes, shown, best)
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    return _inline(target.getvalue(), title)


def _scales(axes: Any, points: Sequence[Point], limit_ms: float | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    latencies = [p.latency_ms for p in points] + ([limit_ms] if limit_ms is not None else [])
    fastest, slowest = min(latencies), max(latencies)
    if slowest > 3 * fastest:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(fastest / 1.25, slowest * 1.35)
    else:
        room = max(slowest - fastest, 0.2 * slowest)
        axes.set_xlim(max(0, fastest - 0.25 * room), slowest + 0.35 * room)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    known = [p for p in points if p.accuracy == p.accuracy]
    lowest, highest = min(p.low for p in known), max(p.high for p in known)
    margin = max(0.004, 0.06 * (highest - lowest))
    axes.set_ylim(max(-0.01, lowest - margin), min(1.01, highest + margin))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.set_xlabel("latency of one image, ms (median)  ← faster")
    axes.set_ylabel("accuracy  → better")
    axes.grid(visible=True, which="major", color=_INK, alpha=0.12, linewidth=0.7)
    axes.set_axisbelow(True)


def _draw_front(axes: Any, best: Sequence[Point]) -> None:
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    xs = [best[0].latency_ms, *(p.latency_ms for p in best), right]
    ys = [bottom, *(p.accuracy for p in best), best[-1].accuracy]
    axes.plot(xs, ys, drawstyle="steps-post", color=_INK, alpha=0.45, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)


def _draw_aside(axes: Any, points: Sequence[Point]) -> None:
    bottom = axes.get_ylim()[0]
    for point in points:
        is_known = point.accuracy == point.accuracy
        axes.plot(
            point.latency_ms, point.accuracy if is_known else bottom, "x" if is_known else "|",
            color=_ASIDE, markersize=5 if is_known else 9, alpha=0.7, zorder=2.5, clip_on=False,
        )  # fmt: skip


def _draw_point(axes: Any, point: Point, *, emphasized: bool) -> None:
    color = _COLORS.get(point.precision, _INK)
    below, above = point.accuracy - point.low, point.high - point.accuracy
    axes.errorbar(
        point.latency_ms, point.accuracy, yerr=[[below], [above]],
        ecolor=color, elinewidth=1.2, capsize=2.5, alpha=0.45, fmt="none", zorder=3,
    )  # fmt: skip
    axes.plot(
        point.latency_ms, point.accuracy, _MARKERS.get(point.runtime, "P"),
        color=color, markersize=9 if emphasized else 7, alpha=1 if emphasized else 0.85,
        markeredgecolor=_INK if emphasized else color, markeredgewidth=1.1, zorder=4,
    )  # fmt: skip


def _legend(axes: Any, points: Sequence[Point], limit_ms: float | None) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker=_MARKERS.get(runtime, "P"), color=_INK, alpha=0.6, linestyle="none", markersize=7,
               label=_NAMES.get(runtime, drawn(runtime)))
        for runtime in dict.fromkeys(p.runtime for p in points if not p.aside)
    ]  # fmt: skip
    handles += [
        Line2D([], [], marker="o", color=_COLORS.get(name, _INK), linestyle="none", markersize=7, label=drawn(name))
        for name in dict.fromkeys(p.precision for p in points if not p.aside)
    ]
    handles.append(Line2D([], [], color=_INK, alpha=0.45, linestyle=(0, (4, 3)), label="Pareto front"))
    if any(point.aside for point in points):
        handles.append(
            Line2D([], [], marker="x", color=_ASIDE, linestyle="none", markersize=5, label="went no further")
        )
    if limit_ms is not None:
        handles.append(Line2D([], [], color=_INK, alpha=0.6, linestyle=(0, (1, 2)), label="limit"))
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(handles), frameon=False,
        handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip


def _label(figure: Any, axes: Any, points: Sequence[Point], best: Sequence[Point]) -> None:
    """Write each point's name where it hides the fewest other things."""
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    scale = figure.dpi / 72
    spots = [tuple(axes.transData.transform((p.latency_ms, p.accuracy))) for p in points]
    taken: list[Sequence[float]] = [(x - 7 * scale, y - 7 * scale, x + 7 * scale, y + 7 * scale) for x, y in spots]
    bars = [axes.transData.transform([(p.latency_ms, p.low), (p.latency_ms, p.high)]) for p in points]
    thin = [(low[0] - scale, low[1], high[0] + scale, high[1]) for low, high in bars]
    steps = [spots[points.index(point)] for point in best] + [(frame.x1, spots[points.index(best[-1])][1])]
    for (left, level), (right, rise) in itertools.pairwise(steps):
        thin += [(left, level - 4 * scale, right, level + 4 * scale), (right - scale, level, right + scale, rise)]
    for point, (x, y) in sorted(zip(points, spots, strict=True), key=lambda item: item[1]):
        written = axes.text(0, 0, drawn(point.label), fontsize=8)
        size = written.get_window_extent(renderer)
        written.remove()
        box = min(
            _places(x, y, size.width, size.height, scale),
            key=lambda b: (
                12 * sum(_overlap(b[:4], other) for other in taken)
                + sum(_overlap(b[:4], other) for other in thin)
                + 20 * (size.width * size.height - _overlap(b[:4], (frame.x0, frame.y0, frame.x1, frame.y1)))
                + b[4]
            ),
        )
        taken.append(box[:4])
        left, bottom = axes.transData.inverted().transform(box[:2])
        axes.text(left, bottom, drawn(point.label), fontsize=8, zorder=5)
        middle, level = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if ((middle - x) ** 2 + (level - y) ** 2) ** 0.5 > size.width / 2 + 24 * scale:
            edge = axes.transData.inverted().transform((min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])))
            axes.plot([point.latency_ms, edge[0]], [point.accuracy, edge[1]], color=_INK, alpha=0.35, lw=0.7, zorder=2)


def _places(x: float, y: float, width: float, height: float, scale: float) -> list[tuple[float, ...]]:
    """Return boxes around a point, with a cost that grows with their distance."""
    found: list[tuple[float, ...]] = []
    for ring, reach in enumerate((10, 20, 34, 50)):
        gap = reach * scale
        for dx, dy in ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 0), (-1, 1), (-1, -1)):
            left = x + dx * gap - (0 if dx > 0 else width if dx < 0 else width / 2)
            bottom = y + dy * gap - height / 2
            found.append((left, bottom, left + width, bottom + height, 40.0 * ring + 5 * abs(dy)))
    return found


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the area that two boxes share, square pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _inline(svg: str, title: str) -> str:
    """Return only the element, scalable, in the page's colours."""
    from xml.sax.saxutils import quoteattr

    element = svg[svg.index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = element.replace(_INK, "currentColor")
    return element.replace(
        "<svg", f'<svg role="img" aria-label={quoteattr(shown_name(title) or "Accuracy against latency")}', 1
    )
