"""A worker of a search: does one step after the other until there is an answer."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tlopt.cards.card import plain
from tlopt.errors import (
    ImagesError,
    OutputError,
    OutputExistsError,
    SettingError,
    StudyError,
    TloptError,
)
from tlopt.progress import NOTICE
from tlopt.search.features import frozen_accuracy, seen
from tlopt.search.funnel import field, halving, proposing, recovery, results, tasks
from tlopt.search.funnel.asked import Asked
from tlopt.search.funnel.clock import Clock, TimeIsUpError
from tlopt.search.funnel.results import Judged, Measured
from tlopt.search.funnel.situation import Situation
from tlopt.search.funnel.tasks import Task
from tlopt.search.funnel.variants import Variant
from tlopt.search.study.leases import Leases
from tlopt.search.timed import Timed, time_artifact, time_untrained

if TYPE_CHECKING:
    from tlopt.search.funnel.workshop import Workshop
    from tlopt.training.resumption.pausing import Epochs, Word

log = logging.getLogger(__name__)

T = TypeVar("T")

Role = Literal["all", "train", "measure"]

_LOOK_S = 1.0  # between two looks at what others are doing
_SECONDS = 1.0  # measured of each network
_AGAIN_SECONDS = 3.0  # measured of the answer
# What no other network could do better: the search ends with these. Anything else drops what failed.
_FATAL = (ImagesError, OutputError, OutputExistsError, SettingError, StudyError, TimeIsUpError)


@dataclass(kw_only=True)
class Worker:
    """One worker.

    Args:
        asked: The search.
        workshop: Makes its artifacts.
        leases: Say who does what.
        clock: Its time.
        role: What it does.
        noted: Called after each step with what is known then.
        sleep: Waits; another one for tests.
    """

    asked: Asked
    workshop: Workshop
    leases: Leases
    clock: Clock
    role: Role = "all"
    noted: Callable[[Situation], None] = lambda situation: None  # noqa: ARG005
    sleep: Callable[[float], None] = time.sleep

    def situation(self) -> Situation:
        """Return what is known now."""
        return Situation(
            asked=self.asked,
            results=results.read(self.leases.storage.entries()),
            left_s=self.clock.left_s,
            total_s=self.clock.minutes * 60,
            reserve_s=self.clock.reserve_s,
        )

    def run(self) -> Situation:
        """Do steps until there is nothing more to do; return what is known then."""
        while True:
            now = self.situation()
            open_ = tasks.ready(now)
            if not open_:
                if not self._others(now):
                    return now
            elif self._one_of(now, open_):
                continue
            if self.clock.left_s < -max(60.0, self.clock.reserve_s):
                return now  # whoever has the rest is too late
            with self.clock.waiting():
                self.sleep(_LOOK_S)

    def _others(self, now: Situation) -> bool:
        """Return whether another worker does something whose result is waited for."""
        if now.left_s <= 0:
            return False
        return bool(self.leases.held(self.leases.storage.entries()))

    def _one_of(self, now: Situation, open_: list[Task]) -> bool:
        """Do the first of some tasks that is free and of this worker's role; return whether there was one."""
        for task in open_:
            if self.role not in ("all", task.place):
                continue
            alone = tasks.MEASURING if task.place == "measure" else ()
            if (number := self.leases.claim(task.key, task.label, alone)) is not None:
                self._do(now, task, number)
                return True
        return False

    def _do(self, now: Situation, task: Task, number: int) -> None:
        log.log(NOTICE, "%s", task.label)
        with self.leases.beating(number, self._note_time):
            began = time.perf_counter()
            found: dict[str, Any]
            try:
                with self.clock.working(task.kind):
                    found = self._result(now, task)
            except TimeIsUpError:
                self.leases.storage.give_up(number)
                return
            except ImagesError as error:
                if task.kind != "rank":  # other images may do for training, though not for cross-validation
                    raise
                found = self._failed(task, error)
            except _FATAL:
                raise
            except TloptError as error:
                found = self._failed(task, error)
            seconds = time.perf_counter() - began
            self.leases.storage.finish(number, {**found, "step_seconds": seconds}, seconds)
        self.noted(self.situation())

    def _note_time(self) -> None:
        """Write down how much of the time is spent: a worker that goes on, or joins, counts from there."""
        with contextlib.suppress(StudyError):  # told by whatever is written next
            self.leases.storage.note("spent_s", self.clock.spent_s)

    def _failed(self, task: Task, error: TloptError) -> dict[str, Any]:
        """Return the result of a step that could not be done: the search goes on without it."""
        log.warning("%s: %s", task.label, error.message)
        return {"problem": f"{error.message} {error.hint}".strip()}

    def _result(self, now: Situation, task: Task) -> dict[str, Any]:
        """Do a task; return its result as JSON types."""
        if now.left_s <= 0 or task.late:  # time is kept back for what is left to do
            return self._known(task, self._steps()[task.kind](now, task))
        with self.clock.ending():
            return self._known(task, self._steps()[task.kind](now, task))

    def _known(self, task: Task, made: Any) -> dict[str, Any]:
        if isinstance(made, Timed) and made.problem:
            return {"problem": made.problem}
        if isinstance(made, Measured) and made.timed.problem:
            return {"problem": made.timed.problem}
        found: dict[str, Any] = plain(asdict(made))
        log.debug("%s: %s", task.key, found)
        return found

    def _steps(self) -> dict[str, Callable[[Situation, Task], Any]]:
        return {
            "time": self._time,
            "rank": self._rank,
            "plan": self._plan,
            "propose": lambda now, _: proposing.propose(now.asked, now.results),
            "first": lambda _, task: self.workshop.first(_given(task.contender)),
            "train": self._train,
            "mix": lambda _, task: self.workshop.mixed(task.artifacts),
            "make": lambda now, task: self.workshop.make(
                _given(task.variant), recovery=recovery.epochs_in_time(now, _given(task.variant))
            ),
            "measure": self._measure,
            "again": self._again,
            "given": self._given,
            "judge": self._judge,
        }

    def _time(self, now: Situation, task: Task) -> Timed:
        budget = now.asked.budget
        return time_untrained(
            _given(task.point), classes=len(now.asked.images.classes), work=self.workshop.work, seconds=_SECONDS,
            batch=budget.batch, memory=budget.needs_memory,
        )  # fmt: skip

    def _rank(self, now: Situation, task: Task) -> Any:
        asked, cache, contender = now.asked, self.workshop.cache, _given(task.contender)
        some = seen(self.workshop.folder, asked.shares, asked.seed)
        return frozen_accuracy(
            contender.network, contender.image_size, some, whole=self.workshop.folder, cache_dir=cache.cache_dir,
            cache_gb=cache.cache_gb, seed=asked.seed,
        )  # fmt: skip

    def _plan(self, now: Situation, task: Task) -> results.Plan:  # noqa: ARG002 - of every step
        survivors = [one for one in field.standings(now.asked, now.results, settled=True) if one.survives]
        if now.results.plan is None:
            return halving.plan(now.asked, survivors, now.results, now.left_s)
        found = halving.extension(now.asked, survivors, now.results, now.left_s - now.compression_s)
        return found or now.results.plan

    def _train(self, now: Situation, task: Task) -> results.Trained:
        plan = _given(now.results.plan)
        contender = _given(task.contender)
        leads = halving.leader(plan, now.results) == contender.key

        def question(epochs: Epochs) -> Word:
            if len(epochs) >= (task.epochs or 1) and task.epochs != plan.epochs:
                return "pause" if task.epochs else "finish"
            if self.situation().trains_on():
                return "go on"
            return "finish" if leads else "pause"

        return self.workshop.train(contender, plan.epochs, question)

    def _measure(self, now: Situation, task: Task) -> Measured:
        timed = self._timed(now, _given(task.variant), _SECONDS, again=False)
        if timed.problem:
            return Measured(hits=0, images=0, timed=timed)
        judged = self._judged(now, _given(task.variant), "val")
        return Measured(**vars(judged), timed=timed)

    def _timed(self, now: Situation, variant: Variant, seconds: float, *, again: bool) -> Timed:
        """Time what was made; twice as long if the first time leaves in doubt whether it keeps to the budget."""
        timed = self._once(now, variant, seconds, again=again)
        if now.asked.budget.in_doubt(timed):
            more = self._once(now, variant, seconds, again=True)
            return timed if more.problem else timed.and_again(more)
        return timed

    def _once(self, now: Situation, variant: Variant, seconds: float, *, again: bool) -> Timed:
        artifact = self.workshop.opened(now.results.made[variant.made_key].artifact)
        budget = now.asked.budget
        return time_artifact(
            artifact, variant.point, work=self.workshop.work, seconds=seconds, batch=budget.batch,
            memory=budget.needs_memory, again=again,
        )  # fmt: skip

    def _judged(self, now: Situation, variant: Variant, part: Literal["val", "test"]) -> Judged:
        artifact = self.workshop.opened(now.results.made[variant.made_key].artifact)
        return self.workshop.judge(artifact, part, backend=variant.point.backend, threads=variant.point.threads)

    def _again(self, now: Situation, task: Task) -> Timed:
        seconds = min(_AGAIN_SECONDS, max(0.2, self.clock.reserve_s / 10))
        return self._timed(now, _given(task.variant), seconds, again=True)

    def _given(self, now: Situation, task: Task) -> Judged:  # noqa: ARG002 - of every step
        artifact = _given(task.contender).network.opened_artifact()
        assert artifact is not None
        return self.workshop.judge(artifact, "val")

    def _judge(self, now: Situation, task: Task) -> Judged:
        return self._judged(now, _given(task.variant), "test")


def _given(what: T | None) -> T:
    """Return what a task is about."""
    assert what is not None
    return what
