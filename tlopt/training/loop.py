"""The training loop: for fine-tuning, and for recovery after pruning."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from tlopt.errors import SettingError, StageError
from tlopt.images.pixels import Pixels
from tlopt.networks import ending, folding, layout
from tlopt.networks.weights import load, snapshot
from tlopt.progress import Bar, bar
from tlopt.training import distributed, freezing, joining, memory, pace, recording
from tlopt.training.augmentation import mixing
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.inputs import batch_size, judged, to_inputs, training_batches
from tlopt.training.optimization import losses, optimizers, regularizers
from tlopt.training.optimization.averaging import Average, applied
from tlopt.training.optimization.precision import arithmetic
from tlopt.training.outcome.history import History, score
from tlopt.training.parallel import parallel
from tlopt.training.recording import Graphs, Recorder
from tlopt.training.resumption import pausing, resuming
from tlopt.training.resumption.checkpoint import Checkpoint

log = logging.getLogger(__name__)

Teacher = Callable[[torch.Tensor], torch.Tensor]
_EXPLODED = 100.0  # times the first loss (or 1, if that was less) above which training has failed


def train(
    model: nn.Module,
    train_images: Pixels,
    val_images: Pixels | None,
    settings: Hyperparameters,
    *,
    teacher: Teacher | None = None,
    checkpoints: Checkpoint | None = None,
    label: str = "Training",
    note: Callable[[dict[str, float]], None] | None = None,
    beside: Pixels | None = None,
) -> History:
    """Train a network in place; at the end it has the weights of the last epoch, or of a better one before it.

    An earlier epoch is kept if its validation accuracy is higher beyond chance: of several epochs judged on a few
    images, the best is the luckiest. Where training stops early, the one of the highest accuracy is kept, then of the
    lowest loss. Everything random follows from `settings.seed` and the step, so that a run goes on from a checkpoint
    to exactly the weights it would have had.

    Args:
        model: Returns logits (n, classes) for float32 (n, 3, size, size).
        train_images: Decoded on the way if they are not yet.
        val_images: The same, with the same preprocessing; None if the weights of the last epoch are to stay.
        settings: How to train.
        teacher: Returns logits for the same inputs; its answers join the loss.
        checkpoints: Where the state is kept; None for nowhere.
        label: Name of the progress bar.
        note: Called with each epoch's record.
        beside: Images with answers in place of labels, which are trained on, too; see `joining.joined`.

    Returns:
        The history. The network is left in evaluation mode, all of it trainable, on the CPU.

    Raises:
        SettingError: The batch cannot be shared among the processes.
        StageError: The loss is no number or explodes, or a checkpoint cannot be written.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), distributed.threads_kept(), memory.kept():
        run = Run(model, train_images, val_images, settings, teacher, checkpoints, beside)
        resuming.restore(run)
        with run.folded(), bar(label, run.steps * settings.epochs) as shown:
            shown.advance(run.done)
            pace.settle(run, below=run.first_trained(settings.epochs - 1), steps=run.steps * settings.epochs - run.done)
            for epoch in range(run.done // run.steps, settings.epochs):
                if run.stopped() or not pausing.goes_on(run.history.epochs):
                    break
                run.epoch(epoch, shown)
                if note is not None:
                    note(run.history.epochs[-1])
        run.finish()
    return run.history


class Run:
    """The state of one training run."""

    def __init__(
        self,
        model: nn.Module,
        train_images: Pixels,
        val_images: Pixels | None,
        settings: Hyperparameters,
        teacher: Teacher | None,
        checkpoints: Checkpoint | None,
        beside: Pixels | None = None,
    ) -> None:
        self.world, self.rank = distributed.world(), distributed.rank()
        if settings.batch and settings.batch % self.world:
            raise SettingError(
                f"A batch of {settings.batch} cannot be shared evenly among {self.world} processes.",
                hint=f"Give --batch a multiple of {self.world}.",
            )
        self.device = distributed.device()
        self.model = layout.place(model, self.device)
        self.train_images, self.val_images, self.settings = train_images, val_images, settings
        self.beside = beside
        self.compiled = settings.compile and not (self.device.type == "cpu" and layout.has_exceptions(model))
        if settings.compile and not self.compiled:
            log.warning("not compiled: torch.compile crashes on processors if a network has a strided 1 x 1 layer")
        self.teacher, self.checkpoints = teacher, checkpoints
        self.networks = [model]
        if isinstance(teacher, nn.Module):
            self.networks.append(layout.place(teacher, self.device).eval())
        folder = train_images.folder
        images = joining.length(folder.labels, beside)  # of an epoch
        self.batch = batch_size(images, settings, self.world)
        self.own_batch = max(1, self.batch // self.world)  # images of this process
        self.steps = images // self.batch
        self.counts = np.bincount(folder.labels, minlength=len(folder.classes)).tolist()
        self.loss = losses.make(settings, self.counts, self.device)
        self.optimizer = optimizers.make(self.model, settings)
        self.arithmetic = arithmetic(settings.precision, self.device)
        self.average = Average(self.model, settings.ema) if settings.ema else None
        self.anchor = regularizers.Anchor(self.model, settings.l2_sp) if settings.l2_sp else None
        self.matcher = regularizers.matcher(self.model, teacher, settings)
        self.history = History(precision=self.arithmetic.name)
        self.best: dict[str, torch.Tensor] = {}
        recording.expect_possible(settings)
        self.recorder: Recorder | None = None
        self.recorded_below = -1  # the first stage that trains in what is recorded
        self.done = 0  # steps
        self.total = 0.0  # loss summed over the epoch so far
        self.first_loss = 0.0
        self.seconds = 0.0  # of the epoch so far
        self.saved = time.monotonic()

    def epoch(self, epoch: int, shown: Bar) -> None:
        """Train through the rest of an epoch, validate, and write a checkpoint."""
        settings = self.settings
        below = self.first_trained(epoch)
        freezing.freeze(self.model, below=below)
        freezing.set_mode(self.model, below=below, frozen_norm=settings.frozen_norm)
        forward = self.forward()
        self._set_recorder(forward, below)
        whole = self.steps * settings.epochs
        first = self.done % self.steps
        started = time.monotonic()
        batches = training_batches(
            self.train_images, settings, epoch=epoch, first=first, rank=self.rank, world=self.world, beside=self.beside
        )
        for step, (crops, wanted) in enumerate(batches, start=first):
            value = self.step(forward, crops, wanted, optimizers.rate(self.settings, self.done, whole))
            self._check(value, epoch, step)
            self.total += value
            self.done += 1
            shown.advance(note=f"loss {self.total / (step + 1):.3f}")
            # Gradients that wait for others are not part of a checkpoint.
            if self._due() and step + 1 < self.steps and self.done % settings.accumulate == 0:
                self.seconds += time.monotonic() - started
                started = time.monotonic()
                resuming.save(self)
        # The last images that the first epoch decoded on the way; later ones have nothing to do here.
        self.train_images.filled()
        self.seconds += time.monotonic() - started
        self._validate(epoch, (self.steps - first) * self.batch / max(1e-9, time.monotonic() - started))
        self.total, self.seconds = 0.0, 0.0
        resuming.save(self)

    def _set_recorder(self, forward: Callable[[torch.Tensor], torch.Tensor], below: int) -> None:
        """Record steps in which the same layers train, if the settings want that."""
        if below == self.recorded_below:
            if self.recorder is not None:
                self.recorder.look()
            return
        self.recorder, self.recorded_below = None, below
        left = self.steps * self.settings.epochs - self.done
        if self.settings.cuda_graphs and left >= recording.WORTH:
            self.recorder = Recorder(partial(self.gradients, forward), self.networks, Graphs())

    def first_trained(self, epoch: int) -> int:
        """Return the index of the first stage that trains in an epoch."""
        moves, frozen, epochs = self.settings.moves, self.settings.frozen_stages, self.settings.epochs
        return freezing.first_trained(self.model, moves=moves, frozen_stages=frozen, epoch=epoch, epochs=epochs)

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Fold batch norms whose statistics stay as they are into the convolutions before them, while training.

        That saves reading and writing activations. A GPU does so faster than it starts the work on the weights.
        """
        if self.device.type != "cpu":
            yield
            return
        size = self.train_images.preprocess.size
        example = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(self.device)
        with ExitStack() as stack:
            if isinstance(self.teacher, nn.Module):
                stack.enter_context(folding.folded(self.teacher, example))
            if self.settings.frozen_norm and not self.compiled:  # which fuses by itself
                stack.enter_context(folding.folded(self.model, example))
            yield

    def forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the network as it is called in training."""
        # What torch.compile returns is a module, though it is declared as a function.
        forward: Any = torch.compile(self.model) if self.compiled else self.model
        if self.world > 1:
            # Made anew each epoch: the set of layers that train may have grown.
            forward = parallel(forward, self.model, self.device, self.train_images.preprocess.size)
        called: Callable[[torch.Tensor], torch.Tensor] = forward
        return called

    def step(
        self, forward: Callable[[torch.Tensor], torch.Tensor], crops: np.ndarray, wanted: np.ndarray, lr: float
    ) -> float:
        """Run one batch forward and back, move the weights if their turn has come, return the loss.

        Args:
            forward: The network.
            crops: uint8 (n, size, size, 3).
            wanted: The answers to reach, float32 (n, classes).
            lr: Learning rate.
        """
        settings = self.settings
        seed = settings.seed * 1_000_003 + self.done
        distributed.seed(seed)
        optimizers.set_rate(self.optimizer, lr)
        inputs = to_inputs(crops, self.train_images.preprocess, self.device)
        targets = torch.from_numpy(wanted).to(self.device)
        inputs, targets = mixing.mix(inputs, targets, settings, np.random.default_rng([settings.seed, 1, self.done]))
        if self.recorder is not None:
            loss = self.recorder.gradients(inputs, targets, seed=seed)
        else:
            loss = self.gradients(forward, inputs, targets)
        if (self.done + 1) % settings.accumulate == 0 or (self.done + 1) % self.steps == 0:
            self.arithmetic.step(self.optimizer, clip=settings.clip)
            self.optimizer.zero_grad(set_to_none=True)
            if self.average is not None:
                self.average.update(self.model)
        # Reading the loss waits for a GPU: not before all of the step is queued.
        return float(distributed.mean(loss.detach()))

    def gradients(
        self, forward: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Run a batch forward and back and return the loss; the weights stay as they are."""
        settings = self.settings
        with self.arithmetic.forward(), self.matcher as matched:
            logits = ending.main_of(forward(inputs), self.model).float()
            loss = self.loss(logits, losses.smooth(targets, settings.smoothing))
            if self.teacher is not None:
                with torch.no_grad():
                    answers = self.teacher(inputs).float()
                distance = losses.distillation(logits, answers, temperature=settings.teacher_temperature)
                loss = (1 - settings.teacher_weight) * loss + settings.teacher_weight * distance
                loss = loss + matched.distance()
        if self.anchor is not None:
            loss = loss + self.anchor.pull()
        self.arithmetic.backward(loss / settings.accumulate)
        return loss

    def _check(self, value: float, epoch: int, step: int) -> None:
        if self.first_loss == 0:
            self.first_loss = max(1.0, value)
        if np.isfinite(value) and value < _EXPLODED * self.first_loss:
            return
        what = "exploded to" if np.isfinite(value) else "became"
        file = self.checkpoints.file if self.checkpoints else None
        kept = f" The last good checkpoint is {file}." if file is not None and file.exists() else ""
        raise StageError(
            f"The loss {what} {value:g} in epoch {epoch + 1}, step {step + 1}, at a learning rate of "
            f"{self.optimizer.param_groups[-1]['lr']:g}.{kept}",
            hint=f"Try a smaller --lr ({self.settings.lr / 3:.1g}); tlopt find-lr shows which rates are stable.",
        )

    def _validate(self, epoch: int, images_per_s: float) -> None:
        with applied(self.average, self.model):
            record = {
                "epoch": epoch + 1,
                "loss": self.total / self.steps,
                "lr": self.optimizer.param_groups[-1]["lr"],
                **judged(self.model, self.val_images, device=self.device),
                "seconds": round(self.seconds, 3),
                "images_per_s": round(images_per_s, 1),
            }
            epochs = self.history.epochs
            epochs.append(record)
            if self.val_images is None or self.history.best < 0 or score(record) > score(epochs[self.history.best]):
                self.history.best = len(epochs) - 1
                self.best = snapshot(self.model)
        log.info("epoch %d: %s", epoch + 1, record)

    def stopped(self) -> bool:
        """Return whether validation has not improved for too long."""
        patience = self.settings.patience
        return patience > 0 and len(self.history.epochs) - 1 - self.history.best >= patience

    def _due(self) -> bool:
        return self.checkpoints is not None and time.monotonic() - self.saved > self.checkpoints.every_s

    def finish(self) -> None:
        """Give the network the weights that are kept."""
        self.recorder = None  # it holds memory, and this run
        ended = self.settings.patience == 0 and self.done == self.steps * self.settings.epochs
        if ended and self.val_images is not None and self.history.last_will_do(len(self.val_images)):
            self.history.best = len(self.history.epochs) - 1
            with applied(self.average, self.model):
                self.best = snapshot(self.model)
        if self.best:
            load(self.model, self.best)
        self.model.requires_grad_(True)
        layout.release(self.model).eval()
