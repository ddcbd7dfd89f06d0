from searches import Known, asked, contender, point

from tlopt.search.funnel import field


def by_name(known):
    return {one.contender.label: one for one in field.standings(known.search, known.now().results)}


def test_a_network_that_is_too_slow_in_its_best_case_is_dropped_with_a_reason_and_not_timed_at_larger_sizes():
    known = Known(asked(sizes=(32, 64)))
    known.time("a", 4.0).time("a", 8.0, size=64).time("b", 100.0)
    slow = by_name(known)["timm:b 32 px"]
    assert [one.width for one in slow.pending] == [0.35]
    known.done(f"time/{slow.pending[0].digest}", {"problem": "it does not run"})
    found = by_name(known)
    assert found["timm:b 32 px"].dropped == "it does not run, pruned to 35 %"
    assert found["timm:b 64 px"].dropped == "over the budget at 32 px already"
    assert found["timm:a 32 px"].survives
    assert found["timm:a 64 px"].survives


def test_a_network_that_does_not_run_at_one_size_is_timed_at_the_next_one():
    known = Known(asked(names=("a",), sizes=(32, 64, 96)))
    small, middle, large = known.search.contenders
    for one in known.search.points(small):
        known.done(f"time/{one.digest}", {"problem": "its last layer needs 2 x 2"})
    found = by_name(known)
    assert found[small.label].dropped == "its last layer needs 2 x 2"
    assert found[middle.label].pending
    assert {one.image_size for one in field.next_points(known.search, known.now().results)} == {64}
    known.time("a", 4.0, size=64)
    assert by_name(known)[middle.label].survives
    assert by_name(known)[large.label].pending


def test_only_the_smallest_size_of_each_network_is_timed_first():
    known = Known(asked(sizes=(64, 32)))
    first = field.next_points(known.search, known.now().results)
    assert {one.image_size for one in first} == {32}
    assert {one.network.name for one in first} == {"timm:a", "timm:b"}
    known.time("a", 4.0)
    sizes = {(one.network.name, one.image_size) for one in field.next_points(known.search, known.now().results)}
    assert sizes == {("timm:a", 64), ("timm:b", 32)}


def test_a_network_that_keeps_to_the_budget_only_when_pruned_survives_as_such():
    known = Known(asked(names=("a",)))
    known.time("a", 20.0)
    [narrow] = field.next_points(known.search, known.now().results)
    known.time("a", 8.0, width=narrow.width)
    assert by_name(known)["timm:a 32 px"].width == 0.35


def test_a_network_that_runs_in_one_precision_only_is_judged_by_it():
    known = Known(asked(names=("a",)))
    one = contender(known.search, "a")
    known.done(f"time/{point(known.search, one).digest}", {"problem": "no kernel"})
    known.time("a", 4.0)  # the first result of a step counts
    assert by_name(known)["timm:a 32 px"].survives
