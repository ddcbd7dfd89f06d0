"""A training run from decoded images to a card: what the stages that train have in common."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from tlopt.artifact import Artifact
from tlopt.cards.card import Card, ImagesRef, plain
from tlopt.cards.details import TorchDetails
from tlopt.images import ImageFolder, Split
from tlopt.images.cache import Cache
from tlopt.images.opening import open_pixels
from tlopt.images.pixels import Pixels
from tlopt.sources import keep
from tlopt.training import distributed
from tlopt.training.hyperparameters import Hyperparameters, Method
from tlopt.training.inputs import answer
from tlopt.training.methods.cross_validation import cross_validate
from tlopt.training.methods.pseudo import Pool
from tlopt.training.methods.transfer import Transfer, transfer
from tlopt.training.network import Network
from tlopt.training.outcome import records
from tlopt.training.resumption.checkpoint import Checkpoint
from tlopt.training.teacher import Answers, Teacher, open_teacher
from tlopt.training.unlabelled import Unlabelled


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, on what and how.

    Args:
        network: What is trained, in place.
        parts: The images.
        settings: How.
        method: From where to where.
        sparse: Keep the zeros of weights that are 2:4 sparse.
        cache: Where decoded images are kept.
        teacher: Artifact whose answers the network learns from, too; None for none.
        runner: Opens a teacher that is no torch artifact.
        crossed: Choose by cross-validation on the training images, with the folds of the settings.
        unlabelled: Images without labels that may take part.
        without_labels: No image has a label: held-out ones are judged by the network's answers before the training.
        rounding: Rounds the network for the length of the training, given the training images; None for not.
    """

    network: Network
    parts: Mapping[Split, ImageFolder]
    settings: Hyperparameters
    method: Method
    cache: Cache
    sparse: bool = False
    teacher: Path | None = None
    runner: Callable[[Artifact], AbstractContextManager[Answers]]
    crossed: bool = False
    unlabelled: Unlabelled | None = None
    without_labels: bool = False
    rounding: Callable[[Pixels], AbstractContextManager[object]] | None = None

    def run(self, checkpoints: Checkpoint) -> tuple[Transfer, dict[str, str]]:
        """Train the network; return the outcome, and file -> reason of the images left out.

        Of several processes that torchrun started only the first returns.

        Raises:
            ImagesError: Too many images are unreadable.
            StageError: The loss is no number or explodes, or the disk is full; the last checkpoint stands.
            SystemExit: With code 0, in every process but the first.
        """
        with distributed.group():
            # Of several processes only the leader shows its progress: in an empty context bars are silent.
            context = contextvars.copy_context() if distributed.rank() == 0 else contextvars.Context()
            if distributed.rank() == 0:
                checkpoints.tell_of_another()
            found = context.run(self._train, checkpoints)
        if distributed.rank() > 0:
            # The leader alone makes the artifact. Were the others to return, what the caller's script does next, they
            # would all do at once, to the same files.
            raise SystemExit(0)
        return found

    def _train(self, checkpoints: Checkpoint) -> tuple[Transfer, dict[str, str]]:
        with self._pixels() as (train, val), contextlib.ExitStack() as stack:
            if self.without_labels:
                device = distributed.device()
                answer(self.network.module.to(device), val, device=device, label="Answers to reach")
                self.network.module.to("cpu")
            if self.rounding is not None:
                stack.enter_context(self.rounding(train))
            teacher = self._teacher(stack)
            pool = self._pool(stack, teacher)
            if self.crossed:
                outcome = cross_validate(
                    self.network.module,
                    train,
                    self.settings,
                    method=self.method,
                    teacher=teacher,
                    pool=pool,
                    checkpoints=checkpoints,
                    cache=self.cache.features,
                )
            else:
                outcome = transfer(
                    self.network.module,
                    train,
                    val,
                    self.settings,
                    method=self.method,
                    fresh=self.network.fresh,
                    sparse=self.sparse,
                    teacher=teacher,
                    pool=pool,
                    checkpoints=checkpoints,
                    cache=self.cache.features,
                )
            # Threads find them in any order.
            unreadable = dict(sorted({**train.unreadable.reasons, **val.unreadable.reasons}.items()))
            return outcome, unreadable

    def _pool(self, stack: contextlib.ExitStack, teacher: Teacher | None) -> Pool | None:
        if self.unlabelled is None:
            return None
        with distributed.leader_first():
            pixels = self._opened(self.unlabelled.folder)
            stack.enter_context(contextlib.closing(pixels))
            if distributed.world() > 1:
                pixels.filled(label="Decoding unlabelled images")
        return Pool(pixels=pixels, about=self.unlabelled, teacher=teacher)

    def _opened(self, folder: ImageFolder) -> Pixels:
        return open_pixels(folder, self.network.preprocess, cache=self.cache.folder, cache_gb=self.cache.cache_gb)

    def _teacher(self, stack: contextlib.ExitStack) -> Teacher | None:
        if self.teacher is None:
            return None
        opened = open_teacher(
            self.teacher,
            classes=self.parts["train"].classes,
            student=self.network.preprocess,
            features=self.settings.teacher_features > 0,
            runner=self.runner,
        )
        return stack.enter_context(opened)

    @contextlib.contextmanager
    def _pixels(self) -> Iterator[tuple[Pixels, Pixels]]:
        """Open the decoded training and validation images."""
        with contextlib.ExitStack() as stack:
            with distributed.leader_first():
                train, val = (
                    stack.enter_context(contextlib.closing(self._opened(self.parts[part]))) for part in ("train", "val")
                )
                if distributed.world() > 1:
                    # What the leader decoded, the others on its machine find in the cache.
                    train.filled(label="Decoding images")
                    val.filled()
            yield train, val

    def card(
        self,
        out: Path,
        trained: tuple[Transfer, dict[str, str]],
        images: ImagesRef | None,
        *,
        details: TorchDetails,
        tensorboard: bool,
    ) -> Card:
        """Write weights and records, and return the card of what was trained.

        Args:
            out: The folder to write into.
            trained: What `run` returned.
            images: The reference to the labelled images, if there are any.
            details: What the card says besides.
            tensorboard: Write TensorBoard events, too.
        """
        outcome, unreadable = trained
        classes = self.parts["train"].classes
        metrics = records.write(out, outcome, classes, tensorboard=tensorboard)
        card = Card(
            kind="torch",
            model=self.network.name,
            precision="fp32",
            classes=classes,
            preprocess=self.network.preprocess,
            images=images,
            details=replace(details, metrics=plain(metrics), unreadable=unreadable),
        )
        return keep(self.network.module, out, card)


def of_pruning(source: Artifact) -> TorchDetails:
    """Return what a card says about pruning: it stays true while the network trains."""
    return TorchDetails(macs=source.card.torch.macs, pruned=source.card.torch.pruned)
