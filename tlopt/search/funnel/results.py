"""What is known so far: the results of the steps that are done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tlopt.errors import StudyError
from tlopt.reading import schema
from tlopt.search.features import Score
from tlopt.search.study.storage import Entry
from tlopt.search.timed import Timed

if TYPE_CHECKING:
    T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which contenders are trained, and how long.

    Args:
        contenders: Their keys, the most promising first.
        epochs: Of a whole training.
        rungs: Epochs after which the weaker half stops; the last one is `epochs`.
        safe: Those of them that keep to the budget without pruning, with room.
    """

    contenders: tuple[str, ...]
    epochs: int
    rungs: tuple[int, ...]
    safe: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Contenders of a large space that are looked at, by their keys."""

    contenders: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How far a training came.

    Args:
        epochs: Done.
        accuracy: On validation.
        loss: On validation.
        artifact: Folder of the result below that of the search; empty if it goes on from its checkpoint, or if it is
            the result of another step.
    """

    epochs: int
    accuracy: float
    loss: float
    artifact: str = ""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A compressed network.

    Args:
        artifact: Its folder below that of the search.
        float_accuracy: Accuracy on validation of the pruned network, in floating point, that int8 was made of; None
            where nothing is compared with it.
    """

    artifact: str
    float_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What an artifact answers on a part of the images.

    Args:
        hits: Right answers.
        images: Number of images.
        loss: Mean cross-entropy of the images at the best temperature; None if it is not known.
        loss_error: Its standard error.
    """

    hits: int
    images: int
    loss: float | None = None
    loss_error: float = 0.0

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.hits / self.images if self.images else 0.0


@dataclass(frozen=True, kw_only=True)
class Measured(Judged):
    """A compressed network on the machine that it is for, judged on validation.

    Args:
        timed: How fast it is.
    """

    timed: Timed


@dataclass(kw_only=True)
class Results:
    """The results of a search by the step's key without its kind.

    Args:
        timed: Point -> how fast it is.
        scores: Contender -> accuracy of a regression on its frozen features.
        plan: Which contenders are trained; None while that is open. A later plan takes the place of one that is done.
        plans: All plans there were.
        proposals: Which contenders of a large space are looked at, in the order of their proposal.
        trained: Contender and epochs -> how far its training came.
        first: Contender -> the network whose classifier alone was trained.
        mixed: Contender -> the mean of the weights of its network's trainings.
        made: Artifact's key -> where it is.
        measured: Variant -> what it is worth.
        again: Variant -> the shipped file, timed once more.
        given: Contender -> the artifact that the search started from, on validation.
        judged: Variant -> what it is worth on the test part.
        problems: Step with its kind -> why it could not be done.
        seconds: Kind -> what its steps cost in all.
        trained_s: Contender -> what those of its trainings cost that came to something.
    """

    timed: dict[str, Timed] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    plan: Plan | None = None
    plans: list[Plan] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    trained: dict[str, dict[int, Trained]] = field(default_factory=dict)
    first: dict[str, Trained] = field(default_factory=dict)
    mixed: dict[str, Trained] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    again: dict[str, Timed] = field(default_factory=dict)
    given: dict[str, Judged] = field(default_factory=dict)
    judged: dict[str, Judged] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    trained_s: dict[str, float] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether it is decided which networks go on: no others are timed from then on."""
        return self.plan is not None or bool(self.made)

    @property
    def steps(self) -> frozenset[str]:
        """The keys of all steps that were tried to their end."""
        return frozenset(self._done)

    def done(self, key: str) -> bool:
        """Return whether a step was tried to its end."""
        return key in self._done

    _done: set[str] = field(default_factory=set)


_TABLES: Mapping[str, tuple[str, type[Any]]] = {
    "time": ("timed", Timed),
    "rank": ("scores", Score),
    "first": ("first", Trained),
    "mix": ("mixed", Trained),
    "make": ("made", Made),
    "measure": ("measured", Measured),
    "again": ("again", Timed),
    "given": ("given", Judged),
    "judge": ("judged", Judged),
}


def read(entries: Iterable[Entry]) -> Results:
    """Return what the tries of a study came to.

    Raises:
        StudyError: A result is damaged.
    """
    found = Results()
    for entry in entries:
        if entry.state == "done" and not found.done(entry.key):
            try:
                _take(found, entry)
            except schema.SchemaError as error:
                raise StudyError(
                    f"The study is damaged: the result of {entry.key!a} does not fit, {error}.",
                    hint="Start anew with --force.",
                ) from error
    return found


def _take(found: Results, entry: Entry) -> None:
    kind, _, key = entry.key.partition("/")
    found._done.add(entry.key)
    result = dict(entry.result)
    seconds = result.pop("step_seconds", 0.0)
    found.seconds[kind] = found.seconds.get(kind, 0.0) + float(seconds)
    if "problem" in result and len(result) == 1:
        found.problems[entry.key] = str(result["problem"])
    elif kind == "plan":
        found.plan = _convert(result, Plan)
        found.plans.append(found.plan)
    elif kind == "propose":
        found.proposals.append(_convert(result, Proposal))
    elif kind == "train":
        contender, _, epochs = key.partition("/")
        found.trained.setdefault(contender, {})[int(epochs)] = _convert(result, Trained)
        found.trained_s[contender] = found.trained_s.get(contender, 0.0) + float(seconds)
    elif kind in _TABLES:
        table, to = _TABLES[kind]
        getattr(found, table)[key] = _convert(result, to)


def _convert(result: Mapping[str, Any], to: type[T]) -> T:
    return schema.convert(dict(result), to)
