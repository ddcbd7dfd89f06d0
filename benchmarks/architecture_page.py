"""The page of architectures.py: what works, what does not, and why."""

from __future__ import annotations

from typing import Any

STEPS = ("finetune", "prune", "export", "int8 onnxruntime", "int8 openvino", "int8 tensorrt", "fp16", "engine fp16",
         "engine int8", "predict")  # fmt: skip
WORKS, SKIPPED = "works", "not tried"
_AIMS = {name: 0.95 if name == "prune" else 0.98 for name in STEPS}

_HEAD = """\
# Which networks work

Each network goes through the whole chain: fine-tuning, pruning, export, int8 for three runtimes, fp16, two engines and
prediction. The networks have random weights and small images, so this page says what runs. It does not say how accurate
the results are. `python benchmarks/architectures.py` measures it and writes this page.

A step works if it ends well and its own checks hold. The export compares its logits with those of torch. An int8 graph
is opened by its runtime. An engine is built by TensorRT for RTX, and not run: that takes a GPU. The column "prune"
shows which share of the multiply-adds was removed when 30 % were asked for.
"""


def page(results: dict[str, Any], expected: int) -> str:
    """Return the page as Markdown.

    Args:
        results: Network -> what became of each step.
        expected: How many networks there are.
    """
    own = sum(name.startswith("odd_architectures:") for name in results)
    ran = f"{len(results)} of {expected} networks were run. {own} of them are small ones written for this benchmark."
    lines = [_HEAD, f"{ran} The shares are of these.", "",
             "| step | works | of | share | aim |", "|---|---|---|---|---|"]  # fmt: skip
    for name in STEPS:
        works = sum(row["steps"][name] == WORKS for row in results.values())
        share = 100 * works / max(1, len(results))
        lines.append(f"| {name} | {works} | {len(results)} | {share:.1f} % | {100 * _AIMS[name]:.0f} % |")
    lines += ["", *_faults(results), *_pruned_less(results), "## All networks", "",
              "| network | " + " | ".join(STEPS) + " |", "|---" * (len(STEPS) + 1) + "|"]  # fmt: skip
    for model, row in sorted(results.items()):
        lines.append(f"| {model} | " + " | ".join(_cell(name, row) for name in STEPS) + " |")
    return "\n".join(lines) + "\n"


def _cell(step: str, row: dict[str, Any]) -> str:
    if row["steps"][step] != WORKS:
        return "–"
    return f"{100 * row['pruned']:.0f} %" if step == "prune" else "✓"


def _faults(results: dict[str, Any]) -> list[str]:
    """Return what failed, one reason a line, with its networks."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for model, row in sorted(results.items()):
        for step, text in row["steps"].items():
            if text != WORKS and not text.startswith(SKIPPED):
                reasons.setdefault((step, text), []).append(f"`{model}`")
    if not reasons:
        return ["## What does not work", "", "Nothing was found.", ""]
    told = [f"- **{step}**, {', '.join(models)}: {text}" for (step, text), models in sorted(reasons.items())]
    return ["## What does not work", "", *told, ""]


def _pruned_less(results: dict[str, Any]) -> list[str]:
    """Return the networks of which less could be pruned than was asked for, with the reason."""
    told = [f"- `{model}`, {100 * row['pruned']:.0f} %: {row['kept'] or 'widths are multiples of 8.'}"
            for model, row in sorted(results.items())
            if row["steps"]["prune"] == WORKS and row["pruned"] < row["asked"] - 0.005]  # fmt: skip
    return ["## Pruned less than was asked for", "", *told, ""] if told else []
