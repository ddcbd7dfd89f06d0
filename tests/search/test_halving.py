import pytest
from searches import Known, asked, contender

from tlopt.search.funnel import field, halving
from tlopt.search.funnel.results import Plan


def known_field(**given):
    known = Known(asked(names=("a", "b", "c", "d"), **given))
    for name, accuracy in zip("abcd", (0.7, 0.9, 0.8, 0.6), strict=True):
        known.time(name, 4.0).rank(name, accuracy)
    return known


def planned(known, left_s):
    results = known.now().results
    return halving.plan(known.search, field.standings(known.search, results), results, left_s)


def test_the_plan_takes_the_most_promising_and_fits_the_time():
    known = known_field()
    plan = planned(known, 1e6)
    assert plan.contenders == tuple(contender(known.search, name).key for name in "bcad")
    assert (plan.epochs, plan.rungs) == (8, (4, 8))
    results = known.now().results
    epoch_s = halving.epoch_s(known.search, field.standings(known.search, results)[0], results)
    short = planned(known, 9 * epoch_s)
    assert (len(short.contenders), short.epochs) == (1, 5)
    assert planned(known, 0.0).epochs == 1


def test_the_loss_tells_which_is_the_most_promising():
    known = Known(asked(names=("a", "b", "c")))
    for name, accuracy, loss in (("a", 0.83, 0.41), ("b", 0.82, 0.37), ("c", 0.81, 0.43)):
        known.time(name, 4.0).rank(name, accuracy, loss=loss)
    assert planned(known, 1e6).contenders == tuple(contender(known.search, name).key for name in "bac")


def test_where_the_time_does_for_one_training_it_is_one_that_needs_no_pruning():
    known = Known(asked(names=("a", "b", "c")))
    known.time("a", 12.0).time("a", 3.0, width=0.35).rank("a", 0.9, seconds=20.0)
    known.time("b", 9.8).rank("b", 0.85, seconds=20.0)  # may turn out to be over the budget
    known.time("c", 4.0).rank("c", 0.8, seconds=20.0)
    names = {one.key: one.network.name[-1] for one in known.search.contenders}
    assert "".join(names[key] for key in planned(known, 1e6).contenders) == "acb"
    assert "".join(names[key] for key in planned(known, 700.0).contenders) == "c"


def test_the_time_to_recover_from_pruning_is_planned_for():
    known = Known(asked(names=("a", "b")))
    known.time("a", 4.0).rank("a", 0.9, seconds=20.0).time("b", 4.0).rank("b", 0.8, seconds=20.0)
    slow = Known(asked(names=("a", "b")))
    slow.time("a", 12.0).time("a", 3.0, width=0.35).rank("a", 0.9, seconds=20.0)
    slow.time("b", 4.0).rank("b", 0.8, seconds=20.0)
    assert planned(known, 3000.0).epochs > planned(slow, 3000.0).epochs


def test_what_ranking_took_says_how_long_a_training_takes():
    known = Known(asked(names=("a", "b")))
    known.time("a", 4.0).rank("a", 0.9, seconds=50.0).time("b", 4.0).rank("b", 0.8)
    results = known.now().results
    slow, unknown = field.standings(known.search, results)
    assert halving.epoch_s(known.search, slow, results) > 10 * halving.epoch_s(known.search, unknown, results)
    assert len(planned(known, 1e6).contenders) == 2
    assert planned(known, 1000.0).contenders == (contender(known.search, "a").key,)


@pytest.mark.parametrize(("epochs", "count", "stops"), [(8, 6, (2, 4, 8)), (8, 2, (8,)), (1, 6, (1,)), (3, 6, (1, 3))])
def test_rungs_halve_the_contenders_until_two_are_left(epochs, count, stops):
    assert halving.rungs(epochs, count) == stops


def test_the_weaker_half_stops_at_a_rung():
    known = known_field()
    plan = Plan(contenders=tuple(contender(known.search, name).key for name in "abcd"), epochs=8, rungs=(4, 8))
    known.train("a", 4, 0.8).train("b", 4, 0.9).train("c", 4, 0.7)
    [work] = halving.next_work(plan, known.now().results)
    assert (work.contender, work.epochs, work.last) == (contender(known.search, "d").key, 4, False)
    known.train("d", 4, 0.6)
    going_on = halving.next_work(plan, known.now().results)
    assert [(one.contender, one.last) for one in going_on] == [
        (contender(known.search, name).key, True) for name in "ba"
    ]
    known.train("a", 8, 0.85, "work/a").train("b", 8, 0.8, "work/b")
    assert halving.next_work(plan, known.now().results) == []
    assert [key for key, _ in halving.finished(known.now().results)] == [
        contender(known.search, name).key for name in "ab"
    ]


def test_a_training_that_fails_does_not_hold_up_the_others():
    known = known_field()
    keys = {name: contender(known.search, name).key for name in "ab"}
    plan = Plan(contenders=tuple(keys.values()), epochs=8, rungs=(4, 8))
    known.done(f"train/{keys['a']}/4", {"problem": "the loss exploded"}).train("b", 4, 0.6)
    assert [one.contender for one in halving.next_work(plan, known.now().results)] == [keys["b"]]


def test_one_that_is_sure_to_keep_to_the_budget_stays_in_the_race():
    known = Known(asked(names=tuple("abcd")))
    keys = {name: contender(known.search, name).key for name in "abcd"}
    for name, accuracy in (("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6)):
        known.train(name, 4, accuracy)
    results = known.now().results
    every = list(keys.values())
    assert halving.survivors_of(every, 4, results) == [keys["a"], keys["b"]]
    assert halving.survivors_of(every, 4, results, [keys["b"]]) == [keys["a"], keys["b"]]
    assert halving.survivors_of(every, 4, results, [keys["d"], keys["c"]]) == [keys["a"], keys["c"]]


@pytest.mark.parametrize("latency_ms", [9.6, 12.0])
def test_a_plan_has_one_that_is_sure_to_keep_to_the_budget_if_there_is_one(latency_ms):
    known = Known(asked(names=tuple("abcd")))
    for name, accuracy in (("a", 0.9), ("b", 0.8), ("c", 0.7)):
        known.time(name, latency_ms).time(name, 3.0, width=0.35).rank(name, accuracy)
    known.time("d", 4.0).rank("d", 0.5)
    now = known.now()
    survivors = field.standings(known.search, now.results)
    found = halving.plan(known.search, survivors, now.results, 1e6)
    names = {one.key: one.network.name for one in known.search.contenders}
    assert [names[key] for key in found.contenders] == ["timm:a", "timm:d", "timm:b", "timm:c"]
    assert [names[key] for key in found.safe] == ["timm:d"]


def test_what_is_sure_to_keep_to_the_budget_is_trained_to_the_end_first():
    known = Known(asked(names=tuple("ab")))
    keys = {name: contender(known.search, name).key for name in "ab"}
    plan = Plan(contenders=tuple(keys.values()), epochs=8, rungs=(8,), safe=(keys["b"],))
    assert [one.contender for one in halving.next_work(plan, known.now().results)] == [keys["b"], keys["a"]]


def test_time_that_is_left_goes_to_contenders_that_may_win():
    known = known_field()

    def extended(left_s):
        results = known.now().results
        survivors = field.standings(known.search, results)
        return halving.extension(known.search, survivors, results, left_s)

    def plan(name):
        keys = [contender(known.search, name).key]
        known.done(f"plan/{name}", {"contenders": keys, "epochs": 8, "rungs": [8]})

    plan("c")
    names = {one.key: one.network.name[-1] for one in known.search.contenders}
    assert [names[key] for key in extended(1e6).contenders] == ["b"]  # a and d looked worse than c
    assert extended(1.0) is None
    plan("b")
    assert extended(1e6) is None  # whatever became of its training


def test_further_trainings_are_planned_by_what_the_ones_before_took():
    def extended(took_s):
        known = known_field()
        key = contender(known.search, "c").key
        known.done("plan", {"contenders": [key], "epochs": 8, "rungs": [8]})
        known.train("c", 8, 0.9, "c", took_s=took_s)
        results = known.now().results
        survivors = field.standings(known.search, results)
        one = next(one for one in survivors if one.contender.key == key)
        expected = 8 * halving.epoch_s(known.search, one, results)
        return expected, halving.extension(known.search, survivors, results, 0.8 * expected)

    expected, found = extended(1e-9)
    assert found is not None  # of half the expected time, whatever the first one took
    planned = {share: extended(share * expected)[1] for share in (0.6, 1.0, 10.0)}
    assert planned[0.6] is not None
    assert planned[0.6].epochs > (planned[1.0].epochs if planned[1.0] else 0)
    assert planned[10.0] is None
