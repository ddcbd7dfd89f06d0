"""What there is: an artifact's card, and the names of models and plugins."""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from tlopt import registry, settings
from tlopt.artifact import Artifact
from tlopt.cards.card import Card, Step, plain
from tlopt.cards.details import EngineDetails, Quantized, TorchDetails
from tlopt.engine.flavour import TITLES
from tlopt.errors import MissingLibraryError, PluginError, suggestion
from tlopt.judging import decibels
from tlopt.outputs import in_words, said
from tlopt.reports import Report, Scalar
from tlopt.settings import Setting, checked
from tlopt.verbs import TABLE

log = logging.getLogger(__name__)


@checked
def show(
    artifact: str | Path | Artifact,
    *,
    all_: Annotated[
        bool, Setting("Show all settings of each step, not only those that differ from their defaults.")
    ] = False,
) -> Report:
    """Show what an artifact is and how it was made.

    The table lists the steps that made it. Below stand the settings of each step that differ from
    their defaults.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    artifact = Artifact.load(artifact)
    card = artifact.card
    notes = [_settings(number, step, every=all_) for number, step in enumerate(card.lineage, 1)]
    notes += [
        f"{artifact.path}: {card.kind}, {card.model}, {card.precision}, {artifact.size_mb:.1f} MB",
        *_answers(card),
    ]
    notes += [*_accuracy(card), *_weights(card), *_unlabelled(card)]
    if card.images:
        notes.append(f"Images: {card.images.path}, digest {card.images.digest[:12]}")
    notes += _pruned(card.details) if isinstance(card.details, TorchDetails) else []
    notes += _engine(card.details) if isinstance(card.details, EngineDetails) else []
    notes += [*_worth(card.quantized), *_floats(card.quantized)] if card.quantized else []
    notes.append("Digest: " + artifact.digest[:12])
    rows: tuple[dict[str, Scalar], ...] = tuple(
        {
            "step": number,
            "stage": step.stage,
            "seconds": step.seconds,
            "source": step.source[:12],
        }
        for number, step in enumerate(card.lineage, 1)
    )
    return Report(title=artifact.name, rows=rows, notes=tuple(notes), details={"card": card.to_dict()})


def _answers(card: Card) -> list[str]:
    """Return what the network is fed and answers with."""
    fed = f"Input: {card.preprocess.summary()}"
    if card.task == "any":
        return [fed, f"Outputs: {', '.join(map(in_words, card.outputs))}. It is no classifier"]
    names = ", ".join(card.classes[:10]) + (f" … ({len(card.classes)})" if len(card.classes) > 10 else "")
    return [f"Classes: {names}", fed, f"Answers: {card.answers.replace('_', '-')}"]


def _metrics(card: Card) -> Mapping[str, Any]:
    """Return what the training of a torch network measured; nothing of other artifacts."""
    return card.torch.metrics if isinstance(card.details, TorchDetails) else {}


def _accuracy(card: Card) -> list[str]:
    """Return what the training of a torch network said of its accuracy or agreement, and what that is of."""
    metrics = _metrics(card)
    try:
        if found := metrics.get("agreement"):
            (low, high), images, before = found["agreement_interval"], found["images"], metrics["candidates"][-1]
            return [
                f"Agreement with the network before: {found['agreement']:.1%} ({low:.1%} to {high:.1%}), on {images} "
                f"held-out images without labels; rounded and not trained {before['agreement']:.1%}"
            ]
        told, crossed = metrics["validation"], metrics.get("folds")
        (low, high), images = told["accuracy_interval"], told["images"]
        what = f"on {images} images for validation"
        if crossed:
            what = (
                f"out of fold: all {images} images, each by a network that had not seen it ({crossed['folds']} folds)"
            )
        return [f"Accuracy: {told['accuracy']:.1%} ({low:.1%} to {high:.1%}), {what}"]
    except (KeyError, TypeError, ValueError):  # there is none, or it is of another version
        return []


def _weights(card: Card) -> list[str]:
    """Return what the weights of a torch network are a mean of, if they are one."""
    metrics = _metrics(card)
    lines = []
    try:
        if soup := metrics.get("soup"):
            used = ", ".join(str(number) for number in sorted(soup["used"]))
            lines.append(f"Mean of weights: of {soup['trainings']} trainings, these took part: {used}")
        share = 1.0 if metrics.get("method") == "head" else metrics.get("fine_tuned_share", 1.0)
        if share == 0:
            lines.append("Weights: those from the start of the training, which did better on validation")
        elif share < 1:
            lines.append(f"Weights: {share:.0%} fine-tuned, {1 - share:.0%} from the start of the training")
    except (KeyError, TypeError, ValueError):  # it is of another version
        return []
    return lines


def _unlabelled(card: Card) -> list[str]:
    """Return how many images without labels took part in the training of a torch network."""
    metrics = _metrics(card)
    try:
        found = metrics["unlabelled"]
        counts = ", ".join(f"{name} {count}" for name, count in found["kept_per_class"].items())
        return [
            f"Without labels: {found['kept']} of {found['images']} images took part, answered by the "
            f"{found['answers']} with a confidence of {found['confidence']:g} or more: {counts}"
        ]
    except (KeyError, TypeError, ValueError, AttributeError):  # there are none, or it is of another version
        return []


def _pruned(details: TorchDetails) -> list[str]:
    """Return which blocks were removed, what else was tried, and the rival of a pruned network."""
    lines = [f"Removed blocks: {', '.join(details.removed_blocks)}"] if details.removed_blocks else []
    for split in details.pruned.splits if details.pruned is not None else ():
        failed = "channels could not make up the rest, or the training failed"
        found = failed if split.loss is None else f"loss {split.loss:.4g} on the validation images"
        what = f"without {', '.join(split.blocks)}" if split.blocks else "with all blocks"
        lines.append(f"Tried {what}: {found}")
    return [*lines, f"Rival: {details.rival.told()}"] if details.rival is not None else lines


def _worth(quantized: Quantized) -> list[str]:
    """Return how much of a graph is in 8 bits, and how near its answers are to the source's."""
    lines, measured = [], quantized.measured
    if quantized.macs and quantized.eight_bit_macs is not None:
        inside, every = (f"{count / 1e6:.4g}" for count in (quantized.eight_bit_macs, quantized.macs))
        share = quantized.eight_bit_macs / quantized.macs
        lines.append(f"In 8 bits: {inside} of {every} million multiply-adds ({share:.1%})")
    if measured is not None and measured.outputs:
        errors = "; ".join(map(said, measured.outputs))
        lines.append(f"Beside its source, on {measured.images} images: {errors}")
    elif measured is not None and measured.snr_db is not None:
        same = "" if measured.agreement is None else f", {measured.agreement:.1%} of the answers the same"
        lines.append(f"Beside its source, on {measured.images} images: logits {measured.snr_db:.1f} dB{same}")
    return lines


def _settings(number: int, step: Step, *, every: bool) -> str:
    """Return the settings of a step that differ from their defaults, or all of them."""
    shown = step.settings if every else _changed(step)
    said = ", ".join(f"{name}={_text(value)}" for name, value in shown.items())
    return f"Step {number}, {step.stage}: {said or 'all settings are the defaults'}"


def _changed(step: Step) -> dict[str, Any]:
    """Return the settings of a step that say something and are not what its verb takes by default now."""
    verb = TABLE.get(step.stage)
    known = settings.parameters(verb.function()) if verb else ()
    defaults = {parameter.name: plain(parameter.default) for parameter in known if not parameter.required}
    return {n: v for n, v in step.telling.items() if n not in defaults or defaults[n] != v}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _floats(quantized: Quantized) -> list[str]:
    """Return which blocks quantize left float, because it was asked to or for accuracy's sake, a line for each."""
    asked, found = quantized.float_blocks, quantized.sensitivity
    lines = [f"Float by choice: {', '.join(asked)}"] if asked else []
    if found is None:
        return lines
    met = "met" if found.met else "NOT met"
    limit = f"Limit of {found.max_drop:g} on the loss of {found.drop_of}"
    if noise := found.drop_of == "noise":
        limit = f"Limit of {decibels(found.max_drop):.3g} dB on every output"
    lines += [f"{limit}, on {found.images} training images: {met}"]
    lines += [f"Float: {name} ({reason})" for name, reason in found.float_blocks.items()]
    rest = "all others in integers" if asked else "all in integers"
    for row in found.trade_off:
        blocks, times = row.float_blocks, row.latency_ms.items()
        latency = "".join(f", {ms:g} ms at batch {batch}" for batch, ms in times)
        what = f"with {len(blocks)} float blocks ({', '.join(blocks)})" if blocks else rest
        drop = "" if noise else f"drop {row.drop:g}, "
        lines.append(f"Trade-off: {what}: {drop}{row.snr_db:g} dB{latency}")
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
        what: "models", "sources", "backends", "quantizers", "criteria" or "targets".
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
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        log.warning("None of the %s has a name like %s. A pattern has * for what varies.", what, pattern)
    return found


def _models(pattern: str) -> list[str]:
    """Return the names of models of all sources that the pattern may fit."""
    found = []
    for source in registry.names("sources"):
        if not _may_fit(source, pattern):  # to list a source is to import its library
            continue
        try:
            names = registry.load("sources", source).names()
        except MissingLibraryError:
            continue
        found += [f"{source}:{name}" for name in names]
    return found


def _may_fit(source: str, pattern: str) -> bool:
    """Return whether a shell pattern may fit the name of a model of a source."""
    begin, fixed = f"{source}:", re.split(r"[*?[]", pattern, maxsplit=1)[0]
    if fixed == pattern:
        return pattern.startswith(begin)
    if not (begin.startswith(fixed) or fixed.startswith(begin)):
        return False
    return ":" not in pattern or fnmatch.fnmatchcase(source, pattern.partition(":")[0])
