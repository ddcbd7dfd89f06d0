"""Which contenders of a space too large to time them all are looked at next: Optuna proposes them."""

from __future__ import annotations

import warnings
from typing import Any

from tlopt.registry import require
from tlopt.search.funnel.asked import Asked, Contender
from tlopt.search.funnel.results import Proposal, Results

LARGE = 60  # contenders above which they are not all timed
ROUND = 8  # proposed at a time
_ASKED = 20  # times as often a sampler is asked: it proposes some of them again


def in_play(asked: Asked, results: Results) -> tuple[Contender, ...]:
    """Return the contenders that are looked at: all of a small space, the proposed ones of a large one."""
    if len(asked.contenders) <= LARGE:
        return asked.contenders
    by_key = {one.key: one for one in asked.contenders}
    return tuple(by_key[key] for one in results.proposals for key in one.contenders)


def is_open(asked: Asked, results: Results) -> bool:
    """Return whether more contenders could be proposed."""
    return len(in_play(asked, results)) < len(asked.contenders)


def propose(asked: Asked, results: Results) -> Proposal:
    """Return the next contenders to look at.

    What is known goes into a study of its own, in memory: accuracy on frozen features and latency are its values, and
    a latency above the limit breaks its constraint. Its sampler may propose what was looked at already
    (TPE knows nothing of discrete spaces); what is missing then comes in the order of the space.
    """
    optuna = require("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = in_play(asked, results)
    by_key = {one.key: one for one in asked.contenders}
    named = {(one.network.digest, one.image_size): one.key for one in asked.contenders}
    choices = {
        "network": optuna.distributions.CategoricalDistribution(
            sorted({one.network.digest for one in by_key.values()})
        ),
        "image_size": optuna.distributions.CategoricalDistribution(sorted({one.image_size for one in by_key.values()})),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of Optuna call themselves experimental
        study = optuna.create_study(
            directions=["maximize", "minimize"],
            sampler=optuna.samplers.TPESampler(
                seed=asked.seed + len(results.proposals), n_startup_trials=ROUND, constant_liar=True
            ),
        )
        for one in known:
            if (trial := _trial(optuna, asked, results, one, choices)) is not None:
                study.add_trial(trial)
        found: dict[str, None] = {}
        seen = {one.key for one in known}
        for _ in range(_ASKED * ROUND):
            if len(found) == min(ROUND, len(by_key) - len(seen)):
                break
            params = study.ask(choices).params
            key = named.get((params["network"], params["image_size"]))
            if key is not None and key not in seen:
                found[key] = None
    for key in by_key:
        if key not in seen and len(found) < ROUND:
            found[key] = None
    return Proposal(contenders=tuple(found))


def _trial(optuna: Any, asked: Asked, results: Results, one: Contender, choices: Any) -> Any:
    """Return what is known of a contender as a trial of Optuna; None if nothing ran."""
    timed = [found for point in asked.points(one) if (found := results.timed.get(point.digest)) is not None]
    if not timed:
        return None
    latency_ms = min(found.latency_ms for found in timed)
    score = results.scores.get(one.key)
    return optuna.trial.create_trial(
        params={"network": one.network.digest, "image_size": one.image_size},
        distributions=choices,
        values=[score.accuracy if score else 0.0, latency_ms],
        constraints={"over the budget": min(asked.budget.excess(found) for found in timed) - 1},
    )
