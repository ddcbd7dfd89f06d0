"""For how long a network is trained after channels were cut: as long as is good for it, or as the time allows."""

from __future__ import annotations

from tlopt.search.funnel import field, halving
from tlopt.search.funnel.asked import recovery_epochs
from tlopt.search.funnel.situation import LEAST_COMPRESSION, Situation
from tlopt.search.funnel.variants import Variant


def epochs_in_time(now: Situation, variant: Variant) -> int:
    """Return for how many epochs a variant recovers from pruning: 0 where there is not even time for one.

    A pruned network that recovered for too short a time is worth more than none. An early answer does not recover: how
    long that takes is not known before anything was trained.
    """
    if variant.base.what == "first":
        return 0
    survivors = [one for one in field.standings(now.asked, now.results) if one.survives]
    standing = next((one for one in survivors if one.contender == variant.base.contender), None)
    most = recovery_epochs(now.asked)
    if standing is None:
        return most
    allowed_s = now.left_s - LEAST_COMPRESSION * now.total_s
    each_s = halving.RECOVERY_COST * halving.epoch_s(now.asked, standing, now.results)
    each_s *= halving.pace(now.asked, survivors, now.results)
    return most if each_s <= 0 else max(0, min(most, int(allowed_s / each_s)))
