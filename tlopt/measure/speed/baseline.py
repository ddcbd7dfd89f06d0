"""Whether something has become slower than it was, beyond noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from tlopt.errors import SettingError, reason
from tlopt.measure.statistics import mann_whitney
from tlopt.reading import files
from tlopt.reading.schema import SchemaError, convert
from tlopt.reports import Report

_Medians = Annotated[list[Annotated[float, Meta(gt=0)]], Meta(min_length=1)]
SIGNIFICANT = 0.01  # p-value below which a slow-down is no noise


def read_baseline(path: Path | None) -> Mapping[str, list[float]]:
    """Return the turn medians of earlier results, none without a path.

    Raises:
        SettingError: The file is no result of a bench.
    """
    if path is None:
        return {}
    try:
        details = Report.from_json(files.read_text(path)).details
        if "turn_medians_ms" not in details:
            raise SchemaError("it has no field details.turn_medians_ms")
        return convert(details["turn_medians_ms"], dict[str, _Medians], path="details.turn_medians_ms")
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{path} cannot be used as a baseline: {reason(error)}.", hint="Make one with tlopt bench --json > FILE."
        ) from error


def unmatched(now: Mapping[str, list[float]], before: Mapping[str, list[float]]) -> list[str]:
    """Return a note on what stands on one side only, if something does."""
    odd = sorted(now.keys() ^ before.keys())
    return [f"Not held against the baseline, on one side only: {', '.join(odd)}."] if before and odd else []


def regressions(now: Mapping[str, list[float]], before: Mapping[str, list[float]], allowed: float) -> list[str]:
    """Return what is slower than the baseline by more than is allowed, beyond noise.

    The earlier medians, one per turn, are lengthened by what is allowed; the Mann-Whitney test
    asks whether those of now still tend to be larger. A baseline that has nothing of what was
    measured is a breach: a gate that compared nothing must not look passed.
    """
    if before and not now.keys() & before.keys():
        return [f"The baseline has nothing of what was measured: it has {', '.join(sorted(before))}."]
    found = []
    for key in now.keys() & before.keys():
        old, new = np.asarray(before[key]), np.asarray(now[key])
        p = mann_whitney(old * (1 + allowed), new)
        if p < SIGNIFICANT:
            slower = float(np.median(new) / np.median(old) - 1)
            found.append(f"{key} is {slower:.1%} slower than the baseline (allowed {allowed:.0%}, p = {p:.2g}).")
    return sorted(found)
