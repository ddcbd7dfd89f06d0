from dataclasses import replace

from searches import asked, contender, point, timed

from tlopt.search.funnel.decision import Finalist, decide
from tlopt.search.funnel.expectation import Expectation
from tlopt.search.funnel.results import Measured
from tlopt.search.funnel.variants import Base, Variant


def finalist(search, name, accuracy, latency_ms, *, images=1000, loss=None, loss_error=0.0, **given):
    one = contender(search, name)
    base = Base(contender=one, artifact=name, accuracy=accuracy)
    found = timed(latency_ms, **given)
    measured = Measured(hits=round(accuracy * images), images=images, loss=loss, loss_error=loss_error, timed=found)
    return Finalist(variant=Variant(base=base, point=point(search, one)), measured=measured)


def chosen(search, *finalists, reference=1.0):
    found = decide(search, finalists, reference).chosen
    return found and found.variant.base.artifact


def test_the_most_accurate_within_the_budget_wins():
    search = asked()
    assert chosen(search, finalist(search, "a", 0.9, 4.0), finalist(search, "b", 0.95, 4.5)) == "b"
    assert chosen(search, finalist(search, "a", 0.9, 4.0), finalist(search, "b", 0.95, 5.1)) == "a"


def test_a_latency_that_noise_alone_keeps_within_the_budget_does_not_count():
    search = asked()
    assert chosen(search, finalist(search, "a", 0.9, 4.0), finalist(search, "b", 0.95, 4.95)) == "a"


def test_within_one_standard_error_the_faster_wins_then_the_smaller():
    search = asked(names=("a", "b", "c"))
    best, faster = finalist(search, "a", 0.900, 4.0), finalist(search, "b", 0.895, 3.0)
    assert chosen(search, best, faster) == "b"
    assert chosen(search, best, finalist(search, "b", 0.80, 3.0)) == "a"
    smaller = finalist(search, "c", 0.893, 3.05, size_mb=0.5)
    assert chosen(search, best, faster, smaller) == "c"


def test_a_loss_that_chance_does_not_explain_tells_two_alike_accuracies_apart():
    search = asked()
    best = finalist(search, "a", 0.900, 4.0, loss=0.48, loss_error=0.05)
    assert chosen(search, best, finalist(search, "b", 0.895, 3.0, loss=0.52, loss_error=0.05)) == "b"
    assert chosen(search, best, finalist(search, "b", 0.895, 3.0, loss=0.55, loss_error=0.05)) == "a"
    assert chosen(search, best, finalist(search, "b", 0.895, 3.0)) == "b"  # of a study whose losses are not known


def test_where_the_ranking_speaks_for_a_network_as_well_the_two_decide_together():
    search = asked()
    less, more = (Expectation(shift=shift, error=0.01, images=700) for shift in (-0.015, 0.015))
    lucky = replace(finalist(search, "a", 0.900, 3.0), expectation=less)
    other = replace(finalist(search, "b", 0.890, 4.0), expectation=more)
    assert chosen(search, lucky, other) == "b"
    found = decide(search, [lucky, other], 1.0)
    assert found.words[2] == "Both together speak for 90.5%."
    assert chosen(search, lucky, replace(other, expectation=less)) == "a"


def test_nothing_within_the_budget_names_the_nearest():
    search = asked(names=("a", "b"))
    decision = decide(search, [finalist(search, "a", 0.9, 20.0), finalist(search, "b", 0.8, 6.0)], 1.0)
    assert decision.chosen is None
    assert [one.variant.base.artifact for one in decision.nearest] == ["b", "a"]
    assert decision.words[0] == "Nothing keeps to the budget of 5 ms a run."
    assert "6 ms" in decision.words[1]


def test_the_accuracy_that_is_asked_for_counts_against_the_best_network_or_by_itself():
    search = asked(latency_ms=5.0, max_drop=0.05)
    fast = finalist(search, "a", 0.9, 4.0)
    assert chosen(search, fast, reference=0.94) == "a"
    assert chosen(search, fast, reference=0.96) is None
    search = asked(latency_ms=5.0, min_accuracy=0.91)
    assert chosen(search, finalist(search, "a", 0.9, 4.0)) is None
    assert "90.0% right, where 91.0% are asked for" in decide(search, [fast], 1.0).words[1]


def test_a_drop_against_an_artifact_that_could_not_be_judged_is_not_kept_to():
    search = asked(kind="torch", latency_ms=5.0, max_drop=0.05)
    decision = decide(search, [finalist(search, "a", 0.9, 4.0)], None)
    assert decision.chosen is None
    assert "the artifact itself could not be judged" in decision.words[1]
    search = asked(kind="torch", latency_ms=5.0)
    assert chosen(search, finalist(search, "a", 0.9, 4.0), reference=None) == "a"
