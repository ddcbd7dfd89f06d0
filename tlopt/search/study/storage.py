"""Where a search is written down: an Optuna storage, a journal in a file or a database.

Two studies of one storage belong to a search. NAME has a trial for each network that was timed, for Optuna's dashboard
and samplers. "NAME steps" has a trial for each try to do a step: who began it, its result, or why it was given up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlopt.errors import MissingLibraryError, StudyError, reason
from tlopt.registry import require
from tlopt.search.study import backing

_NAME = "tlopt"
_HELD, _DONE, _GIVEN_UP = "held", "done", "given up"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One try to do a step.

    Args:
        number: Its place in the order of all tries.
        key: The step.
        owner: Who does it, as JSON types.
        state: "held", "done" or "given up".
        beat: How often its owner has said since that it is alive.
        result: What came of it, as JSON types.
    """

    number: int
    key: str
    owner: Mapping[str, Any]
    state: str
    beat: int = 0
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A network that was timed, as Optuna sees it.

    Args:
        key: Of the point or the artifact that was timed.
        parameters: Its name, size and so on.
        accuracy: On validation images; None if it was dropped before it was trained.
        latency_ms: Of a run.
        excess_ms: Latency above the limit: negative within it.
        why: Why it was dropped; empty if it was not.
    """

    key: str
    parameters: Mapping[str, str]
    accuracy: float | None
    latency_ms: float
    excess_ms: float
    why: str = ""


class Storage:
    """The two studies of a search, open.

    Args:
        where: A file, or the address of a database; ``#NAME`` behind it names the study.
        identity: What the search is; a study of another one is refused. None to look only: nothing is made or mended.
        anew: Forget what is there.

    Raises:
        MissingLibraryError: Optuna, or the driver of the database, is not installed.
        StudyError: The study is damaged, cannot be reached, is not tlopt's, or is of another search or another tlopt.
    """

    def __init__(self, where: str, identity: Mapping[str, str] | None, *, anew: bool = False) -> None:
        self.where = backing.shown_place(where)
        self._optuna = require("optuna")
        self._optuna.logging.disable_default_handler()
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        place, name = backing.parted(where)
        name, look = name or _NAME, identity is None
        with self._readable():
            self._storage = (
                backing.database(self._optuna, place, look=look)
                if backing.is_url(place)
                else backing.journal(self._optuna, Path(place), look=look)
            )
            known = self._known(name)
            if identity is None:
                self._tried, self._steps = known.get(name), known.get(_steps(name))
                return
            if anew:
                self._forget(name, known)
            # First whose it is: what has the name of a search and does not say so is not tlopt's.
            self._steps = self._study(_steps(name), ["minimize"])
            self._compare(identity)
            self._tried = self._study(name, ["maximize", "minimize"])

    def _known(self, name: str) -> dict[str, int]:
        """Return the numbers of the studies of a name that are there.

        Raises:
            StudyError: They are not tlopt's.
        """
        found = {one.study_name: one for one in self._storage.get_all_studies()}
        known = {one: found[one]._study_id for one in (name, _steps(name)) if one in found}
        if not known or "identity" in getattr(found.get(_steps(name)), "user_attrs", {}):
            return known
        # Another worker may have made an empty one, and be about to say what it is of.
        if name in found or self._storage.get_all_trials(known[_steps(name)], deepcopy=False):
            raise StudyError(
                f"{self.where} has a study {name} that is not tlopt's.",
                hint="Name another one: --study FILE_OR_URL#NAME.",
            )
        return known

    def _forget(self, name: str, known: Mapping[str, int]) -> None:
        for one in (name, _steps(name)):  # the last one says whose both are
            if one in known:
                with contextlib.suppress(KeyError):  # another worker forgets it, too
                    self._storage.delete_study(known[one])

    def _study(self, name: str, directions: list[str]) -> int:
        # Networks are timed before they are trained, so a sampler never has to prune.
        made = self._optuna.create_study(
            storage=self._storage, study_name=name, directions=directions, load_if_exists=True
        )
        return int(self._storage.get_study_id_from_name(made.study_name))

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Say of what Optuna raises that the study cannot be used.

        Raises:
            StudyError: In the place of Optuna's and the database's own errors, which share no base but Exception.
        """
        try:
            yield
        except (StudyError, MissingLibraryError):
            raise
        except Exception as error:
            what = "cannot be used" if backing.is_url(self.where) or isinstance(error, OSError) else "is damaged"
            raise StudyError(
                f"The study {self.where} {what}: {reason(error)}.",
                hint="Name another one with --study, or start anew with --force.",
            ) from error

    def _compare(self, identity: Mapping[str, str]) -> None:
        """Refuse a study of another search; a new one is given its identity."""
        known = self._storage.get_study_user_attrs(self._steps).get("identity")
        if known is None:
            self._storage.set_study_user_attr(self._steps, "identity", dict(identity))
            known = self._storage.get_study_user_attrs(self._steps)["identity"]
        if not isinstance(known, dict):
            raise StudyError(f"The study {self.where} is damaged: it does not say what it is of.")
        if differ := [name for name, value in identity.items() if known.get(name) != value]:
            own, other = identity[differ[0]], known.get(differ[0])
            told = f" ({other} there, {own} here)" if differ[0] == "tlopt" else ""
            raise StudyError(
                f"The study {self.where} is of another search: its {' and '.join(differ)} differ{told}.",
                hint="Give the same settings, or another --study and another --out.",
            )

    def attribute(self, name: str) -> Any:
        """Return something that was written down of the whole search, None if it was not."""
        with self._readable():
            return self._storage.get_study_user_attrs(self._steps).get(name)

    def note(self, name: str, value: Any) -> None:
        """Write down something of the whole search, as JSON types."""
        with self._readable():
            self._storage.set_study_user_attr(self._steps, name, value)

    def entries(self) -> list[Entry]:
        """Return all tries in their order."""
        with self._readable():
            if self._steps is None:
                return []
            trials = self._storage.get_all_trials(self._steps, deepcopy=False)
            return [_entry(trial) for trial in sorted(trials, key=lambda trial: int(trial.number))]

    def begin(self, key: str, owner: Mapping[str, Any]) -> int:
        """Write down that somebody would do a step; return the number of the try."""
        with self._readable():
            template = self._optuna.trial.create_trial(
                state=self._optuna.trial.TrialState.RUNNING, user_attrs={"key": key, "owner": dict(owner)}
            )
            # One write: a try that has no key yet would be seen by nobody.
            found = self._storage.create_new_trial(self._steps, template_trial=template)
            return int(self._storage.get_trial_number_from_id(found))

    def beat(self, number: int, count: int) -> None:
        """Write down that whoever does a step is alive."""
        with contextlib.suppress(StudyError), self._readable():
            self._storage.set_trial_user_attr(self._id(number), "beat", count)

    def finish(self, number: int, result: Mapping[str, Any], seconds: float) -> None:
        """Write down the result of a step; another one's that has taken it over stays."""
        with self._readable(), contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(self._id(number), "result", dict(result))
            self._storage.set_trial_state_values(self._id(number), self._optuna.trial.TrialState.COMPLETE, [seconds])

    def give_up(self, number: int) -> None:
        """Write down that a try ended without a result; of one that has ended already, nothing changes."""
        with self._readable(), contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_state_values(self._id(number), self._optuna.trial.TrialState.FAIL)

    def _id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._steps, number))

    def show(self, tried: Tried, choices: Mapping[str, Sequence[str]]) -> None:
        """Write a network down for Optuna's own tools, once.

        Args:
            tried: The network.
            choices: Parameter -> every value that it may have in the search: databases want them to be always the same.
        """
        state = self._optuna.trial.TrialState
        with self._readable():
            known = self._storage.get_all_trials(self._tried, deepcopy=False)
            if any(trial.user_attrs.get("key") == tried.key for trial in known):
                return
            trial = self._optuna.trial.create_trial(
                state=state.FAIL if tried.accuracy is None else state.COMPLETE,
                values=None if tried.accuracy is None else [tried.accuracy, tried.latency_ms],
                params=dict(tried.parameters),
                distributions={
                    name: self._optuna.distributions.CategoricalDistribution(choices[name]) for name in tried.parameters
                },
                user_attrs={"key": tried.key, "latency_ms": tried.latency_ms, "why": tried.why},
            )
            trial.set_constraint("ms above the limit", tried.excess_ms)
            self._storage.create_new_trial(self._tried, template_trial=trial)


def _steps(name: str) -> str:
    return f"{name} steps"


def _entry(trial: Any) -> Entry:
    attributes = trial.user_attrs
    state = {"RUNNING": _HELD, "COMPLETE": _DONE}.get(trial.state.name, _GIVEN_UP)
    return Entry(
        number=int(trial.number),
        key=str(attributes["key"]),
        owner=dict(attributes["owner"]),
        state=state,
        beat=int(attributes.get("beat", 0)),
        result=dict(attributes.get("result", {})),
    )
