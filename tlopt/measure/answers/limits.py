"""What a candidate may lose in a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from tlopt import outputs
from tlopt.cards.details import OutputError
from tlopt.errors import SettingError
from tlopt.settings import Setting

_ROUNDING = 1e-12  # of a difference of shares: a loss that equals its limit does not exceed it


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a candidate may lose; None for any loss."""

    max_drop: Annotated[
        float | None,
        Setting("Largest loss of accuracy that is allowed. 0.01 is one percentage point.", minimum=0, maximum=1),
    ] = None
    min_agreement: Annotated[
        float | None, Setting("Smallest share of equal answers that is allowed.", minimum=0, maximum=1)
    ] = None
    max_class_drop: Annotated[
        float | None, Setting("Largest loss of recall that is allowed for any class.", minimum=0, maximum=1)
    ] = None
    min_db: Annotated[
        float | None,
        Setting("Smallest signal to noise in decibels that is allowed, of every output or of the logits.", minimum=0),
    ] = None

    def check(self, what: str, *, classes: bool) -> None:
        """Refuse limits that need what is not there.

        Args:
            what: Why labels are not there, as the end of a sentence.
            classes: Whether the networks answer with classes, so that their answers can agree.

        Raises:
            SettingError: A limit is set that needs labels, or classes.
        """
        given = {"max_drop": self.max_drop, "max_class_drop": self.max_class_drop}
        given |= {} if classes else {"min_agreement": self.min_agreement}
        if needing := [name for name, value in given.items() if value is not None]:
            raise SettingError(
                f"{needing[0]} needs labels, and {what}.", hint="Limit the error of the outputs instead: --min-db 20."
            )

    def far(self, errors: Sequence[OutputError]) -> tuple[str, ...]:
        """Return a sentence for each output that is farther from the reference's than is allowed.

        Args:
            errors: Of the outputs.
        """
        least = self.min_db
        return tuple(
            f"The output {error.name} has {found:.1f} dB, less than the {least:g} dB required."
            for error in errors
            if least is not None and (found := outputs.worst([error])) < least - _ROUNDING
        )

    def breaches(
        self,
        drop: float = 0.0,
        agreement: float | None = None,
        recall_change: Mapping[str, float] | None = None,
        *,
        snr_db: float | None = None,
    ) -> tuple[str, ...]:
        """Return a sentence for each limit of a classifier that is exceeded.

        Args:
            drop: Accuracy lost, -1..1.
            agreement: Share of equal answers, 0..1; None if there are no classes.
            recall_change: Class -> change of its recall, -1..1; None if there are no labels.
            snr_db: Signal to noise of the logits, decibels; None if `far` judges them.
        """
        found = []
        if self.min_db is not None and snr_db is not None and snr_db < self.min_db - _ROUNDING:
            found.append(f"The logits have {snr_db:.1f} dB, less than the {self.min_db:g} dB required.")
        if self.max_drop is not None and drop > self.max_drop + _ROUNDING:
            found.append(f"The accuracy drop is {drop:.2%}, more than the {self.max_drop:.2%} allowed.")
        if self.min_agreement is not None and agreement is not None and agreement < self.min_agreement - _ROUNDING:
            found.append(f"The agreement is {agreement:.2%}, less than the {self.min_agreement:.2%} required.")
        if (most := self.max_class_drop) is not None:
            found += [
                f"The recall of {name} fell by {-change:.2%}, more than the {most:.2%} allowed."
                for name, change in (recall_change or {}).items()
                if -change > most + _ROUNDING
            ]
        return tuple(found)
