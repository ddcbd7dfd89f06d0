import pytest
from searches import Known, asked, contender, timed

from tlopt.cards.card import plain
from tlopt.search.features import Score
from tlopt.search.funnel import deciding, tasks
from tlopt.search.funnel.expectation import SPREAD, expectations


def known(search, **accuracies):
    """Return results in which each network has an accuracy after training, and one in the ranking."""
    found = Known(search)
    for name, (trained, ranked) in accuracies.items():
        found.train(name, 8, trained, artifact=name)
        found.rank(name, ranked)
    return found.now().results


def shifts(search, results, images=100):
    found = expectations(results, images)
    return [found[contender(search, name).key].shift for name in ("a", "b")]


def test_the_ranking_moves_accuracies_towards_its_own_order():
    search = asked()
    higher, lower = shifts(search, known(search, a=(0.80, 0.80), b=(0.82, 0.78)))
    assert higher == pytest.approx(-lower, abs=1e-3)
    assert 0.009 < higher < 0.01  # the ranking saw as many images, but is a little less sure: not quite half of it


def test_what_fine_tuning_adds_to_all_moves_nothing():
    search = asked()
    assert shifts(search, known(search, a=(0.90, 0.70), b=(0.85, 0.65))) == pytest.approx([0, 0], abs=1e-9)


def test_many_validation_images_outweigh_the_ranking():
    search = asked()
    results = known(search, a=(0.80, 0.80), b=(0.82, 0.78))
    few, many = (abs(shifts(search, results, images)[0]) for images in (100, 100_000))
    assert many < 0.01 * few


def test_the_ranking_is_never_surer_than_what_fine_tuning_adds_allows():
    search = asked()
    one = Score(accuracy=0.8, interval=(0.8, 0.8), loss=0.5, images=10**9, folds=5, penalty=0.1)
    found = Known(search).train("a", 8, 0.80, artifact="a").train("b", 8, 0.82, artifact="b")
    for name in ("a", "b"):
        found.done(f"rank/{contender(search, name).key}", one)
    errors = {expectation.error for expectation in expectations(found.now().results, 10).values()}
    assert all(0.95 * SPREAD < error <= SPREAD for error in errors)


@pytest.mark.parametrize("folds", [0, 5])
def test_one_network_or_one_that_knows_the_images_has_nothing_to_be_compared_with(folds):
    search = asked()
    found = Known(search).train("a", 8, 0.80, artifact="a").train("b", 4, 0.82).rank("a", 0.8).rank("b", 0.8)
    if not folds:
        found.train("b", 8, 0.82, artifact="b")
        own = Score(accuracy=0.9, interval=(0.9, 0.9), loss=0.1, images=100, folds=0, penalty=0.0)
        found.entries = [entry for entry in found.entries if entry.key != f"rank/{contender(search, 'b').key}"]
        found.done(f"rank/{contender(search, 'b').key}", own)
    assert expectations(found.now().results, 100) == {}


def test_accuracies_of_all_or_of_no_images_are_weighed_too():
    search = asked()
    assert shifts(search, known(search, a=(1.0, 1.0), b=(0.0, 0.0))) == pytest.approx([0, 0], abs=1e-9)
    assert expectations(known(search, a=(1.0, 1.0), b=(0.0, 0.0)), 0) == {}


def test_a_finalist_knows_what_the_ranking_says_of_its_network_and_the_decision_says_so():
    search = asked()
    found = Known(search).time("a", 8.0).time("b", 4.0)
    for name, trained, ranked in (("a", 0.80, 0.85), ("b", 0.81, 0.72)):
        found.rank(name, ranked).train(name, 8, trained, artifact=name)
    keys = [contender(search, name).key for name in "ab"]
    found.done("plan", {"contenders": keys, "epochs": 8, "rungs": [8]})
    while task := next((one for one in tasks.ready(found.now()) if one.kind in ("make", "measure")), None):
        right = 80 if task.variant.base.artifact == "a" else 81
        timing = plain(timed(4.0 if right == 80 else 2.0))
        result = {"hits": right, "images": 100, "timed": timing} if task.kind == "measure" else {"artifact": "work/x"}
        found.done(task.key, result)
    decision = deciding.decision(found.now())
    assert decision.chosen.variant.base.artifact == "a"
    assert decision.chosen.measured.accuracy < decision.chosen.expected
    assert "The best on 100 validation images and the 100 of the ranking is timm:a 32 px" in decision.words[1]
