"""What there is: an artifact's card, and the names of models and plugins."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

from tlopt import registry
from tlopt.artifact import Artifact
from tlopt.card import plain
from tlopt.details import EngineDetails, Quantized
from tlopt.engine.flavour import TITLES
from tlopt.errors import MissingLibraryError, PluginError, suggestion
from tlopt.reports import Report, Scalar
from tlopt.settings import checked


@checked
def show(artifact: str | Path | Artifact) -> Report:
    """Show what an artifact is and how it was made.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    artifact = Artifact.load(artifact)
    card = artifact.card
    names = ", ".join(card.classes[:10]) + (f" … ({len(card.classes)})" if len(card.classes) > 10 else "")
    preprocess = card.preprocess
    notes = [
        f"{artifact.path}: {card.kind}, {card.model}, {card.precision}, {artifact.size_mb:.1f} MB",
        f"Classes: {names}",
        f"Input: {preprocess.size} px, {preprocess.interpolation}, crop {preprocess.crop_ratio:g}"
        + (", uint8 RGB (preprocessing is inside)" if preprocess.folded else ""),
    ]
    if card.images:
        notes.append(f"Images: {card.images.path}, digest {card.images.digest[:12]}")
    notes += _engine(card.details) if isinstance(card.details, EngineDetails) else []
    notes += _floats(card.quantized) if card.quantized else []
    notes.append("Digest: " + artifact.digest[:12])
    rows: tuple[dict[str, Scalar], ...] = tuple(
        {
            "step": number,
            "stage": step.stage,
            "seconds": step.seconds,
            "source": step.source[:12],
            "settings": ", ".join(f"{key}={_text(value)}" for key, value in step.telling.items()),
        }
        for number, step in enumerate(card.lineage, 1)
    )
    return Report(title=artifact.name, rows=rows, notes=tuple(notes), details={"card": card.to_dict()})


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _floats(quantized: Quantized) -> list[str]:
    """Return which blocks quantize left float, because it was asked to or for accuracy's sake, a line for each."""
    asked, found = quantized.float_blocks, quantized.sensitivity
    lines = [f"Float as asked: {', '.join(asked)}"] if asked else []
    if found is None:
        return lines
    met = "met" if found.met else "NOT met"
    lines += [f"Loss of {found.drop_of} up to {found.max_drop:g} on {found.images} training images: {met}"]
    lines += [f"Float: {name} ({reason})" for name, reason in found.float_blocks.items()]
    rest = "all others in integers" if asked else "all in integers"
    for row in found.trade_off:
        blocks, times = row.float_blocks, row.latency_ms.items()
        latency = "".join(f", {ms:g} ms at batch {batch}" for batch, ms in times)
        what = f"with {len(blocks)} float blocks ({', '.join(blocks)})" if blocks else rest
        lines.append(f"Trade-off: {what}: drop {row.drop:g}, {row.snr_db:g} dB{latency}")
    return lines


def _engine(details: EngineDetails) -> list[str]:
    """Return what an engine was built with and for, and what the inspector found in it."""
    profile, inside = details.profile, details.inspector
    batches = f"{profile.min_batch} to {profile.max_batch}, tuned for {profile.opt_batch}"
    built = f"on {details.gpu.name}" if details.gpu else "ahead of time"
    lines = [
        f"Engine: {TITLES[details.flavour]} {details.version}, CUDA {details.cuda or 'unknown'}, "
        f"built {built} for {', '.join(details.targets)}; batches {batches}",
        f"Built from: {details.onnx.path}, sha256 {details.onnx.sha256[:12]}",
    ]
    chosen = {name: value for name, value in plain(details.options).items() if value not in (None, False, "no", "")}
    lines.append("Options: " + ", ".join(f"{name}={value}" for name, value in chosen.items()))
    counted = {"types": inside.types, "inputs": inside.inputs, "weights": inside.weights, "outputs": inside.outputs}
    for name, found in counted.items():
        if name == "weights" and not found:  # the builder's listing has no types of weights
            continue
        lines.append(f"Layers' {name}: " + ", ".join(f"{kind} {count}" for kind, count in found.items()))
    return [*lines, f"Layers: {inside.layers}, from the {inside.source}"]


@checked
def list_names(what: str, pattern: str = "*") -> list[str]:
    """List models, or plugins of a kind, by their names.

    Args:
        what: "models", "sources", "backends", "quantizers" or "criteria".
        pattern: Shell pattern ("timm:resnet*").

    Raises:
        PluginError: There is nothing of that kind.
    """
    if what == "models":
        names = _models(pattern)
    elif what in registry.GROUPS:
        names = list(registry.names(what))
    else:
        raise PluginError(f"Nothing is called {what!r}.", hint=suggestion(what, ("models", *registry.GROUPS)))
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _models(pattern: str) -> list[str]:
    found = []
    for source in registry.names("sources"):
        if ":" in pattern and not fnmatch.fnmatchcase(source, pattern.partition(":")[0]):
            continue
        try:
            names = registry.load("sources", source).names()
        except MissingLibraryError:
            continue
        found += [f"{source}:{name}" for name in names]
    return found
