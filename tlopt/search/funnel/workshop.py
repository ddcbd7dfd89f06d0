"""Making the artifacts of a search: trained, mixed and compressed networks, each at the address of what made it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlopt.artifact import Artifact
from tlopt.environment import versions
from tlopt.images import ImageFolder, Split, division
from tlopt.images.cache import Cache
from tlopt.reading.files import real_path
from tlopt.search.funnel.asked import Asked, Contender, recovery_epochs
from tlopt.search.funnel.results import Judged, Made, Trained
from tlopt.search.funnel.variants import Variant
from tlopt.search.once import digest_of, once
from tlopt.search.outcome import copy_artifact
from tlopt.search.untrained import runtime_of
from tlopt.training.resumption.pausing import Epochs, PausedError, Word, asking

if TYPE_CHECKING:
    from tlopt.measure.answers.images import ImagePart

WORK = "work"  # folder of all artifacts below that of the search
_QAT_EPOCHS, _QAT_LR = 2, 2e-4
_MAX_DROP = 0.005  # what float blocks are to bring the loss of int8 to


@dataclass(frozen=True, kw_only=True, eq=False)
class Workshop:
    """Where artifacts are made, and of what.

    Args:
        asked: The search.
        out: Folder of the search.
        folder: All images.
        parts: The images by part.
        cache: Where decoded images and features are kept.
    """

    asked: Asked
    out: Path
    folder: ImageFolder
    parts: Mapping[Split, ImageFolder]
    cache: Cache

    @property
    def work(self) -> Path:
        """Folder of the artifacts."""
        return self.out / WORK

    def place(self, verb: str, *parts: object) -> Path:
        """Return the address of an artifact."""
        return self.work / f"{verb}-{digest_of(versions()['tlopt'], verb, *parts)}"

    def below(self, path: Path) -> str:
        """Return a path as it is written down: the folder of the search may lie elsewhere on another machine."""
        return str(path.relative_to(self.out))

    def opened(self, artifact: str) -> Artifact:
        """Open an artifact that the search made.

        Raises:
            ArtifactError: It is gone or damaged.
        """
        return Artifact.load(self.out / artifact)

    def first(self, one: Contender) -> Trained:
        """Train the classifier of a network alone."""
        settings = {"seed": self.asked.seed, "method": "head", **self._kept()}
        place = self.place("head", one.key, *self._images())
        made = once(place, lambda to: self._finetune(one, to, settings))
        return self._trained(made, 0)

    def train(self, one: Contender, epochs: int, question: Callable[[Epochs], Word]) -> Trained:
        """Train a network, or go on with its training.

        Args:
            one: The network.
            epochs: Of the whole training.
            question: Whether it goes on after an epoch.
        """
        settings = self._training(epochs)
        place = self.place("finetune", one.key, epochs, *self._images())
        try:
            with asking(question):
                made = once(place, lambda to: self._finetune(one, to, {**settings, "resume": True}))
        except PausedError as paused:
            best = max(paused.epochs, key=lambda record: (record["val_accuracy"], -record["val_loss"]))
            return Trained(epochs=len(paused.epochs), accuracy=best["val_accuracy"], loss=best["val_loss"])
        return self._trained(made, epochs)

    def _trained(self, made: Artifact, epochs: int) -> Trained:
        metrics = made.card.torch.metrics
        kept = [one for one in metrics.get("candidates", []) if one["share"] == metrics.get("fine_tuned_share")]
        return Trained(
            epochs=epochs,
            accuracy=float(metrics["validation"]["accuracy"]),
            loss=float((kept[0] if kept else metrics["probe"])["loss"]),
            artifact=self.below(made.path),
        )

    def _images(self) -> tuple[object, ...]:
        return (self.asked.images.digest, self.asked.shares.val, self.asked.shares.test, self.asked.seed)

    def _training(self, epochs: int) -> dict[str, Any]:
        return {"epochs": epochs, "seed": self.asked.seed, **self._kept()}

    def _kept(self) -> dict[str, Any]:
        return {"cache_dir": self.cache.cache_dir, "cache_gb": self.cache.cache_gb}

    def _finetune(self, one: Contender, to: Path, settings: Mapping[str, Any]) -> Artifact:
        from tlopt.stages.finetune import finetune

        artifact = one.network.opened_artifact()
        if artifact is not None:
            self.asked.expect_trainable(artifact)
            return finetune(artifact, to, force=True, images=self._images_for(artifact), **settings)
        shares = self.asked.shares
        return finetune(
            self.folder, to, force=True, model=one.network.name, weights=one.network.weights,
            image_size=one.image_size, val=shares.val, test=shares.test, **settings,
        )  # fmt: skip

    def mixed(self, artifacts: Sequence[str]) -> Trained:
        """Mix the weights of trainings of one network, as long as it does better on validation.

        A mean that none joined is that training itself: it is no artifact of its own.
        """
        from tlopt.search.funnel.soup import soup

        first, *others = opened = [self.opened(artifact) for artifact in artifacts]
        place = self.place("soup", first.digest, [other.digest for other in others])
        given = {
            "names": [f"{one.card.model} {one.card.preprocess.size} px" for one in opened],
            "others": [str(other.path) for other in others],
        }
        kept = {"images": self._images_for(first), **self._kept()}
        made = once(place, lambda to: soup(first, to, force=True, **given, **kept))
        metrics = made.card.torch.metrics
        return Trained(
            epochs=0,
            accuracy=float(metrics["validation"]["accuracy"]),
            loss=float(metrics["loss"]),
            artifact=self.below(made.path) if len(metrics["mean_of"]) > 1 else "",
        )

    def make(self, variant: Variant, *, recovery: int) -> Made:
        """Make a variant, with what it is made of: what is there already is taken as it is.

        Args:
            variant: What is made.
            recovery: Epochs of training after channels were cut, at least.
        """
        source = self._base(variant)
        is_pruned = source.card.kind == "torch" and variant.point.width < 1
        if is_pruned:
            source = self._pruned(source, variant.point.width, recovery)
        made = self._compressed(source, variant)
        if not made.path.is_relative_to(self.out):
            given = made
            made = once(self.place("given", given.digest), lambda to: copy_artifact(given, to))
        other_ways = variant.way == "plain" and variant.base.what != "first"  # may follow, if int8 loses too much
        judged = is_pruned and variant.point.precision == "int8" and other_ways
        return Made(
            artifact=self.below(made.path),
            float_accuracy=self.judge(source, "val").accuracy if judged else None,
        )

    def _compressed(self, source: Artifact, variant: Variant) -> Artifact:
        """Bring a network into the precision of a variant, and into the format of what runs it."""
        from tlopt.backends import load

        point = variant.point
        runtime = runtime_of(point.backend)
        reads = load(*point.backend.partition(":")[::2]).READS
        if source.card.kind == "torch" and variant.way == "trained":
            source = self._rounded(source, runtime)
        if source.card.kind in reads and point.precision == source.card.precision:
            return source
        if source.card.kind == "torch":
            source = self._exported(source)
        if point.precision != source.card.precision:
            source = self._quantized(source, point.precision, runtime, mixed=variant.way == "mixed")
        return source if "onnx" in reads else self._built(source)

    def _base(self, variant: Variant) -> Artifact:
        given = variant.base.contender.network.opened_artifact() if variant.base.what == "given" else None
        return given if given is not None else self.opened(variant.base.artifact)

    def _pruned(self, source: Artifact, width: float, epochs: int) -> Artifact:
        """Prune, and train for so many epochs; where a longer training is there, that counts for this one, too."""
        from tlopt.stages.prune import prune

        def place(epochs: int) -> Path:
            return self.place("prune", source.digest, width, epochs, self.asked.seed)

        longer = range(recovery_epochs(self.asked), epochs, -1)
        epochs = next((more for more in longer if place(more).exists()), epochs)
        return once(
            place(epochs),
            lambda to: prune(
                source, to, force=True, ratio=round(1 - width, 6), epochs=epochs, images=self._images_for(source),
                rival=False, seed=self.asked.seed, **self._kept(),
            ),
        )  # fmt: skip

    def _rounded(self, source: Artifact, runtime: str) -> Artifact:
        from tlopt.stages.qat import qat

        return once(
            self.place("qat", source.digest, runtime, _QAT_EPOCHS, self.asked.seed),
            lambda to: qat(
                source, to, force=True, epochs=_QAT_EPOCHS, lr=_QAT_LR, seed=self.asked.seed,
                images=self._images_for(source), resume=True, **{"for": runtime}, **self._kept(),
            ),
        )  # fmt: skip

    def _images_for(self, artifact: Artifact) -> Path | None:
        """Return where a stage finds the images of an artifact; None where they were when it was trained on them.

        There the stage checks that they are still the same.
        """
        if not (self.asked.own or division.has_all_parts(self.folder)):
            return self._table
        ref, here = artifact.card.images, real_path(self.folder.source)
        return None if ref is not None and Path(ref.path) == here else self.folder.source

    @functools.cached_property
    def _table(self) -> Path:
        """A table that says to which part each image belongs, of images that no network was trained on.

        The stages would divide them in their way, and train on some that decide or judge here.
        """
        table = self.place("images", *self._images(), str(self.folder.source.absolute())).with_suffix(".csv")
        division.write(table, self.parts)
        return table

    def _exported(self, source: Artifact) -> Artifact:
        from tlopt.stages.export import export

        # Two networks of the same weights may have been trained with different scales.
        place = self.place("export", source.digest, source.card.torch.qat is not None)
        return once(place, lambda to: export(source, to, force=True))

    def _quantized(self, source: Artifact, precision: str, runtime: str, *, mixed: bool) -> Artifact:
        from tlopt.stages.quantize import quantize

        given: dict[str, Any] = {"max_drop": _MAX_DROP} if mixed else {}
        return once(
            self.place("quantize", source.digest, precision, runtime, given, source.card.onnx.qat is not None),
            lambda to: quantize(
                source, to, force=True, precision=precision, images=self._images_for(source), seed=self.asked.seed,
                **{"for": runtime}, **given,
            ),
        )  # fmt: skip

    def _built(self, source: Artifact) -> Artifact:
        from tlopt.search.machine import fingerprint_digest
        from tlopt.stages.build import build

        return once(self.place("build", source.digest, fingerprint_digest()), lambda to: build(source, to, force=True))

    def judge(self, artifact: Artifact, part: Split, *, backend: str = "", threads: int = 0) -> Judged:
        """Return what an artifact answers on a part of the images."""
        from tlopt.judging import as_logits
        from tlopt.measure.evaluate import evaluate
        from tlopt.training.outcome.temperature import calibrated_losses

        answers = evaluate(artifact, opened=self._opened_part(part), backend=backend, threads=threads).outputs
        assert answers is not None
        losses = calibrated_losses(as_logits(answers.logits, answers.kind), answers.labels)
        return Judged(
            hits=int(answers.correct.sum()), images=len(losses), loss=float(losses.mean()),
            loss_error=float(losses.std()) / math.sqrt(len(losses)),
        )  # fmt: skip

    def _opened_part(self, part: Split) -> ImagePart:
        """Return a part of the images, decoded once for all that see it alike."""
        from tlopt.measure.answers.images import ImagePart

        return self._parts.setdefault(part, ImagePart(self.parts[part], part))

    @functools.cached_property
    def _parts(self) -> dict[Split, ImagePart]:
        return {}
