"""Where a search is written down: an Optuna storage, a journal in a file or a database.

Two studies of one storage belong to a search. NAME has a trial for each network that was timed, for Optuna's dashboard
and samplers. "NAME steps" has a trial for each try to do a step: who began it, its result, or why it was given up.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlopt.errors import MissingLibraryError, StudyError
from tlopt.reading import files, schema
from tlopt.registry import require

_URL = re.compile(r"[a-z][a-z0-9+]*://")
_NAME = "tlopt"
_HELD, _DONE, _GIVEN_UP = "held", "done", "given up"
_OPERATION = b'{"op_code":'  # how each line of a journal begins


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


def shown_place(where: str) -> str:
    """Return a file or an address as it may be shown: without a password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:…@", where)


def is_url(where: str) -> bool:
    """Return whether a study lies in a database."""
    return _URL.match(where) is not None


class Storage:
    """The two studies of a search, open.

    Args:
        where: A file, or the address of a database; ``#NAME`` behind it names the study.
        identity: What the search is; a study of another one is refused. None for whatever it is.
        anew: Forget what is there.

    Raises:
        MissingLibraryError: Optuna, or the driver of the database, is not installed.
        StudyError: The study is damaged, cannot be reached, or is of another search or another tlopt.
    """

    def __init__(self, where: str, identity: Mapping[str, str] | None, *, anew: bool = False) -> None:
        self.where = shown_place(where)
        self._optuna = require("optuna")
        self._optuna.logging.disable_default_handler()
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        place, _, name = where.partition("#")
        with self._readable():
            self._storage = self._database(place) if is_url(place) else self._journal(Path(place))
            if anew:
                self._forget(name or _NAME)
            tried = self._study(name or _NAME, ["maximize", "minimize"])
            steps = self._study(f"{name or _NAME} steps", ["minimize"])
            self._tried, self._steps = (self._storage.get_study_id_from_name(one.study_name) for one in (tried, steps))
            if identity is not None:
                self._compare(identity)

    def _forget(self, name: str) -> None:
        for one in (name, f"{name} steps"):
            with contextlib.suppress(KeyError):  # there is none
                self._optuna.delete_study(study_name=one, storage=self._storage)

    def _study(self, name: str, directions: list[str]) -> Any:
        # Networks are timed before they are trained, so a sampler never has to prune.
        return self._optuna.create_study(
            storage=self._storage, study_name=name, directions=directions, load_if_exists=True
        )

    def _journal(self, file: Path) -> Any:
        journal = self._optuna.storages.journal
        if file.exists() or file.is_symlink():
            files.expect_regular(file)
        elif not file.parent.is_dir():
            raise StudyError(f"The study {file} cannot be made: there is no folder {file.parent}.")
        file = file.absolute()  # the lock is a link to it
        lock = journal.JournalFileSymlinkLock(str(file))
        _mend(file, lock)
        return self._optuna.storages.JournalStorage(journal.JournalFileBackend(str(file), lock_obj=lock))

    def _database(self, url: str) -> Any:
        try:
            return self._optuna.storages.RDBStorage(url, skip_compatibility_check=False)
        except ImportError as error:
            raise MissingLibraryError(
                f"The driver for {self.where} is not installed: {error}.", hint="python -m pip install its package."
            ) from error

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
            reason = (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")
            what = "cannot be used" if is_url(self.where) or isinstance(error, OSError) else "is damaged"
            raise StudyError(
                f"The study {self.where} {what}: {reason}.",
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
        """Write down the result of a step."""
        with self._readable():
            self._storage.set_trial_user_attr(self._id(number), "result", dict(result))
            self._storage.set_trial_state_values(self._id(number), self._optuna.trial.TrialState.COMPLETE, [seconds])

    def give_up(self, number: int) -> None:
        """Write down that a try ended without a result; of one that has ended already, nothing changes."""
        with self._readable(), contextlib.suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_state_values(self._id(number), self._optuna.trial.TrialState.FAIL)

    def _id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._steps, number))

    def show(self, tried: Tried) -> None:
        """Write a network down for Optuna's own tools, once."""
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
                    name: self._optuna.distributions.CategoricalDistribution([value])
                    for name, value in tried.parameters.items()
                },
                user_attrs={"key": tried.key, "latency_ms": tried.latency_ms, "why": tried.why},
            )
            trial.set_constraint("ms above the limit", tried.excess_ms)
            self._storage.create_new_trial(self._tried, template_trial=trial)


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


def _mend(file: Path, lock: Any) -> None:
    """Cut off the end of a journal that a full disk, or a machine that went off, has left without the end of its line.

    What is written next would become part of that line, and the journal could not be read from then on.

    Raises:
        StudyError: The file is no journal: Optuna would write into whatever it is.
    """
    if not file.exists():
        return
    lock.acquire()
    try:
        content = files.read_bytes(file, limit=files.TABLE_LIMIT)
        end = content.rfind(b"\n") + 1
        last, rest = content[content.rfind(b"\n", 0, max(0, end - 1)) + 1 : end], content[end:]
        if not (_begins(last) and _begins(rest) and (_is_json(last) or not last)):
            raise StudyError(
                f"The study {file} is damaged: its last line is no record of Optuna.", hint="Name another --study."
            )
        if rest:
            os.truncate(file, end)
    finally:
        lock.release()


def _begins(line: bytes) -> bool:
    """Return whether a line, or a part of one, begins as the records of a journal do."""
    return line[: len(_OPERATION)] == _OPERATION[: len(line)]


def _is_json(line: bytes) -> bool:
    try:
        schema.parse_json(line)
    except schema.SchemaError:
        return False
    return True
