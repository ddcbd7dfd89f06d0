"""What is done next, with results that are written down by hand."""

from dataclasses import replace

import pytest
from searches import Known, asked, contender, point, timed

from tlopt.cards.card import plain
from tlopt.search.funnel import deciding, field, proposing, recovery, tasks, variants


def kinds(known):
    return [task.kind for task in tasks.ready(known.now())]


def trained_field(**given):
    """Two contenders, timed, ranked and planned."""
    known = Known(asked(precisions=("fp32", "int8", "qat"), **given))
    for name, accuracy in (("a", 0.9), ("b", 0.8)):
        known.time(name, 4.0).rank(name, accuracy)
    keys = [contender(known.search, name).key for name in "ab"]
    return known.done("plan", {"contenders": keys, "epochs": 2, "rungs": [2]})


def step(known, accuracy=0.9, latency_ms=3.0):
    """Do the first task there is; return it."""
    task = tasks.ready(known.now())[0]
    if task.kind == "measure":
        found = timed(latency_ms, point=task.variant.point.digest)
        known.done(task.key, {"hits": round(100 * accuracy), "images": 100, "timed": plain(found)})
    elif task.kind == "make":
        known.done(task.key, {"artifact": f"work/{task.variant.made_key}"})
    elif task.kind in ("first", "train"):
        artifact = f"work/{task.key.replace('/', '-')}"
        result = {"epochs": task.epochs, "accuracy": 0.9, "loss": 0.1, "artifact": artifact}
        known.done(task.key, result)
    elif task.kind == "again":
        known.done(task.key, timed(latency_ms, point=task.variant.point.digest))
    elif task.kind == "judge":
        known.done(task.key, {"hits": 90, "images": 100})
    return task


def test_the_steps_follow_one_another_to_the_answer():
    known = trained_field()
    done = []
    while task := (tasks.ready(known.now()) or [None])[0]:
        done.append(task.kind)
        step(known)
        assert len(done) < 40
    assert done[:3] == ["first", "make", "measure"]
    assert done.count("train") == 2
    assert done[-2:] == ["again", "judge"]
    assert deciding.decision(known.now()).chosen is not None


def test_an_early_answer_over_the_budget_is_followed_by_one_with_more_room():
    known = Known(asked(names=("a", "b", "c")))
    for name, latency_ms, accuracy in (("a", 9.6, 0.9), ("b", 4.0, 0.7), ("c", 8.0, 0.8)):
        known.time(name, latency_ms).rank(name, accuracy)
    keys = [contender(known.search, name).key for name in "acb"]
    known.done("plan", {"contenders": keys, "epochs": 2, "rungs": [2]})
    done = [step(known, latency_ms=5.2) for _ in range(3)]
    assert [task.kind for task in done] == ["first", "make", "measure"]
    assert done[0].contender.network.name == "timm:a"
    done = [step(known, latency_ms=2.1) for _ in range(3)]
    assert [task.kind for task in done] == ["first", "make", "measure"]
    assert done[0].contender.network.name == "timm:c"  # the most promising of those with room
    assert kinds(known)[0] == "train"


def test_an_early_answer_just_within_the_budget_is_followed_by_one_with_more_room():
    known = trained_field()
    assert [step(known, latency_ms=4.85).kind for _ in range(3)] == ["first", "make", "measure"]
    assert kinds(known)[0] == "first"


def test_the_early_answer_is_the_most_promising_of_those_with_room():
    known = Known(asked(names=("a", "b", "c", "d")))
    for name, latency_ms, accuracy in (("a", 9.6, 0.9), ("b", 2.0, 0.6), ("c", 8.0, 0.8), ("d", 9.4, 0.85)):
        known.time(name, latency_ms).rank(name, accuracy)
    keys = [contender(known.search, name).key for name in "adcb"]
    known.done("plan", {"contenders": keys, "epochs": 2, "rungs": [2]})
    done = [step(known, latency_ms=5.2).contender for _ in range(9)]
    assert [one.network.name for one in done if one is not None] == ["timm:a", "timm:c", "timm:b"]


def test_one_whose_early_answer_keeps_to_the_budget_needs_no_other_that_is_sure_to():
    known = Known(asked(names=("a", "b", "c")))
    for name, latency_ms, accuracy in (("a", 9.6, 0.9), ("b", 9.6, 0.8), ("c", 4.0, 0.6)):
        known.time(name, latency_ms).rank(name, accuracy)
    keys = {name: contender(known.search, name).key for name in "abc"}
    known.done("plan", {"contenders": [*keys.values()], "epochs": 3, "rungs": [1, 3], "safe": [keys["c"]]})
    assert [step(known, latency_ms=4.6).kind for _ in range(3)] == ["first", "make", "measure"]  # of a
    known.train("a", 1, 0.8).train("b", 1, 0.9).train("c", 1, 0.5)
    going_on = [task.contender.key for task in tasks.ready(known.now()) if task.kind == "train"]
    assert sorted(going_on) == sorted([keys["a"], keys["b"]])
    assert going_on[0] == keys["a"]  # what keeps to the budget is trained to the end first


def test_a_finalist_that_needs_no_pruning_is_made_before_one_that_does():
    known = Known(asked())
    known.time("a", 12.0).time("a", 3.0, width=0.35).rank("a", 0.9).time("b", 4.0).rank("b", 0.8)
    keys = [contender(known.search, name).key for name in "ab"]
    known.done("plan", {"contenders": keys, "epochs": 2, "rungs": [2]})
    known.train("a", 2, 0.9, "work/a").train("b", 2, 0.8, "work/b")
    made = [task.variant.base.contender.network.name for task in tasks.ready(known.now()) if task.kind == "make"]
    assert made[0] == "timm:b"
    names = []
    while (task := tasks.ready(known.now())[0]).kind in ("make", "measure", "time"):
        names += [task.variant.base.contender.network.name] if task.kind == "make" else []
        if task.kind == "time":
            known.done(task.key, timed(4.0, point=task.point.digest))
        else:
            step(known)
    assert names[0] == "timm:b"
    assert "timm:a" in names


def test_what_was_made_when_the_time_ended_is_measured_in_the_time_kept_for_the_answer():
    known = trained_field()
    while not (known.entries[-1].key.startswith("make") and any(e.key.startswith("train") for e in known.entries)):
        step(known)
    known.left_s, known.reserve_s = -1.0, 30.0
    assert kinds(known) == ["measure"]
    known.left_s = -14.5  # what is left may not do for it and the answer
    assert kinds(known) == ["again"]
    known.left_s, known.reserve_s = -1.0, 1.0
    assert kinds(known) == ["again"]


def test_what_was_made_first_is_measured_though_nothing_was_measured_before():
    known = trained_field()
    while known.entries[-1].key.partition("/")[0] != "make":
        step(known)
    known.left_s, known.reserve_s = -1.0, 30.0
    assert kinds(known) == ["measure"]  # what was timed untrained took a second each
    known.reserve_s = 2.0
    assert kinds(known) == []


def test_time_that_is_left_when_a_plan_is_done_goes_to_another_contender():
    known = trained_field()
    keys = {name: contender(known.search, name).key for name in "ab"}
    known.entries[-1] = replace(known.entries[-1], result={"contenders": [keys["b"]], "epochs": 2, "rungs": [2]})
    while (task := step(known)).kind != "plan":
        assert task.kind not in ("again", "judge")
    assert task.key == "plan/1"
    known.done("plan/1", {"contenders": [keys["a"]], "epochs": 2, "rungs": [2]})
    done = []
    while tasks.ready(known.now()):
        done.append(step(known).key)
    assert f"train/{keys['a']}/2" in done
    assert not any(key.startswith("first") for key in done)
    assert deciding.decision(known.now()).chosen is not None


def test_a_leader_that_has_to_be_pruned_is_no_early_answer():
    known = Known(asked())
    known.time("a", 12.0).time("a", 3.0, width=0.35).rank("a", 0.9)
    known.time("b", 4.0).rank("b", 0.7)
    keys = [contender(known.search, name).key for name in "ab"]
    known.done("plan", {"contenders": keys, "epochs": 2, "rungs": [2]})
    assert [step(known).kind for _ in range(3)] == ["first", "make", "measure"]
    assert deciding.decision(known.now()).chosen.variant.base.contender.network.name == "timm:b"


def pruned_field(**given):
    """Two contenders that keep to the budget only when they are pruned."""
    known = Known(asked(**given))
    for name, accuracy in (("a", 0.9), ("b", 0.8)):
        known.time(name, 12.0).time(name, 6.0, width=0.35).rank(name, accuracy)
    keys = [contender(known.search, name).key for name in "ab"]
    return known.done("plan", {"contenders": keys[:1], "epochs": 2, "rungs": [2]})


def test_where_all_have_to_be_pruned_the_early_answer_is_pruned():
    known = pruned_field()
    done = []
    while (task := tasks.ready(known.now())[0]).kind != "train":
        done.append(task)
        if task.kind == "time":
            known.done(task.key, timed(9.0 * task.point.width, point=task.point.digest))
        else:
            step(known)
    assert [task.kind for task in done] == ["first", "time", "time", "make", "measure"]
    assert done[-1].variant.point.width == 0.5  # the widest that keeps to the budget
    assert done[-1].variant.base.contender.network.name == "timm:a"
    assert deciding.decision(known.now()).chosen is not None


@pytest.mark.parametrize(("left_s", "most"), [(1000.0, 4), (150.0, 1), (121.0, 0), (60.0, 0)])
def test_a_pruned_network_recovers_for_as_long_as_the_time_allows(left_s, most):
    known = pruned_field().train("a", 2, 0.9, "work/a", took_s=36.0)  # as foreseen
    known.left_s = left_s
    now = known.now()
    [standing] = [one for one in field.standings(now.asked, now.results) if one.contender.network.name == "timm:a"]
    wide = variants.Base(contender=standing.contender, artifact="work/a", accuracy=0.9)
    trained, stopgap = (
        variants.Variant(base=replace(wide, what=what), point=point(known.search, standing.contender, width=0.35))
        for what in ("trained", "first")
    )
    assert recovery.epochs_in_time(now, trained) == most
    assert recovery.epochs_in_time(now, stopgap) == 0


def test_time_that_is_enough_for_one_more_variant_is_trained_in():
    known = trained_field()
    for _ in range(3):
        step(known)
    known.entries[-2] = replace(known.entries[-2], result={**known.entries[-2].result, "step_seconds": 130.0})  # make
    known.left_s = 350.0
    assert known.now().trains_on()
    known.left_s = 190.0
    assert not known.now().trains_on()


def test_an_epoch_has_to_fit_into_the_time_before_compression():
    known = trained_field()
    for _ in range(3):
        step(known)
    known.left_s = known.now().compression_s + 20.0
    assert known.now().trains_on()
    known.train("a", 2, 0.9)
    known.entries[-1] = replace(known.entries[-1], result={**known.entries[-1].result, "step_seconds": 60.0})
    assert not known.now().trains_on()


def test_time_for_pruning_is_kept_where_the_leader_needs_it():
    known = Known(asked(), left_s=1000.0, total_s=1000.0)
    known.time("a", 2000.0).time("a", 3.0, width=0.35).rank("a", 0.9).time("b", 4.0).rank("b", 0.7)
    keys = [contender(known.search, name).key for name in "ab"]
    spare = known.now().compression_s
    known.done("plan", {"contenders": keys, "epochs": 2, "rungs": [2]})
    assert known.now().compression_s > spare


def test_nothing_is_trained_if_nothing_can_keep_to_the_budget():
    known = Known(asked(names=("a",)))
    known.time("a", 100.0).time("a", 90.0, width=0.35)
    assert tasks.ready(known.now()) == []
    decision = deciding.decision(known.now())
    assert decision.chosen is None
    assert decision.words == ("Nothing keeps to the budget of 5 ms a run.",)


def test_a_single_survivor_needs_no_ranking():
    known = Known(asked())
    known.time("a", 4.0).time("b", 100.0).time("b", 90.0, width=0.35)
    assert kinds(known) == ["plan"]


def test_int8_that_loses_accuracy_is_tried_with_float_blocks_and_with_training():
    known = trained_field()
    ways = []
    while task := (tasks.ready(known.now()) or [None])[0]:
        is_plain = task.variant is not None and task.variant.way == "plain"
        step(known, accuracy=0.7 if is_plain and task.variant.point.precision == "int8" else 0.9)
        if task.kind == "make" and task.variant.base.what == "trained":
            ways.append((task.variant.base.contender.network.name, task.variant.point.precision, task.variant.way))
    assert [way[1:] for way in ways if way[0] == ways[0][0]] == [
        ("int8", "plain"), ("fp32", "plain"), ("int8", "mixed"), ("int8", "trained"),
    ]  # fmt: skip
    assert all(way == "plain" for *_, way in ways[:4])  # of both networks, before what takes longer


def test_what_turns_out_too_slow_is_pruned_if_that_can_help():
    known = trained_field()
    for name in "ab":
        for width in (0.7, 0.5):
            known.time(name, 3.0 * width, width=width)
    widths = []
    while task := (tasks.ready(known.now()) or [None])[0]:
        step(known, latency_ms=3.0 if task.variant is not None and task.variant.point.width < 1 else 6.0)
        if task.kind == "make" and task.variant.base.what == "trained":
            widths.append(task.variant.point.width)
    assert 0.7 in widths
    assert 0.5 not in widths
    assert deciding.decision(known.now()).chosen.variant.point.width == 0.7


def test_when_the_time_is_up_only_the_answer_is_left_to_be_made():
    known = trained_field()
    for _ in range(3):
        step(known)
    known.left_s = -1.0
    assert kinds(known) == ["again"]
    step(known)
    assert kinds(known) == ["judge"]
    step(known)
    assert kinds(known) == []


def test_a_training_is_finished_early_if_there_is_no_time_to_go_on():
    known = trained_field()
    for _ in range(3):
        step(known)
    key = contender(known.search, "b").key
    known.done(f"train/{key}/1", {"epochs": 1, "accuracy": 0.8, "loss": 0.2, "artifact": ""})
    known.left_s = 50.0
    first = tasks.ready(known.now())[0]
    assert (first.key, first.epochs) == (f"train/{key}/0", 0)


def test_an_answer_that_is_too_slow_when_it_is_timed_again_gives_way_to_the_next():
    known = trained_field()
    while (task := tasks.ready(known.now())[0]).kind != "again":
        step(known)
    first = deciding.decision(known.now()).chosen.variant.key
    known.done(task.key, timed(7.0, point=task.variant.point.digest))
    second = tasks.ready(known.now())[0]
    assert second.kind == "again"
    assert second.variant.key != first


def over_the_budget(other_ms=6.0):
    """Two contenders that were within the budget untrained, and are over it trained; a third has room."""
    known = Known(asked(names=("a", "b", "c")))
    for name, latency_ms, accuracy in (("a", 9.2, 0.9), ("b", 8.8, 0.8), ("c", other_ms, 0.7)):
        known.time(name, latency_ms).rank(name, accuracy)
    keys = [contender(known.search, name).key for name in "ab"]
    known.done("plan", {"contenders": keys, "epochs": 2, "rungs": [2]})
    for name in "ab":
        known.train(name, 2, 0.9, artifact=f"work/{name}")
    while (task := (tasks.ready(known.now()) or [None])[0]) and "timm:c" not in task.label:
        step(known, latency_ms=5.4)
    return known


def test_where_all_turn_out_to_be_over_the_budget_a_network_with_more_room_answers():
    known, done = over_the_budget(), []
    while task := (tasks.ready(known.now()) or [None])[0]:
        done.append((task.kind, task.late))
        step(known, accuracy=0.7, latency_ms=3.4)
        assert len(done) < 9
    late = [(kind, True) for kind in ("first", "make", "measure")]
    assert done == [*late, ("again", False), ("judge", False)]
    assert deciding.decision(known.now()).chosen.variant.base.contender == contender(known.search, "c")


def test_it_may_be_late_by_less_than_a_tenth_of_the_time():
    known = over_the_budget()
    known.left_s, known.total_s, known.reserve_s = -5.0, 120.0, 4.0
    assert kinds(known) == ["first"]  # 3 steps of a second, and 6.6 s until it is too late
    known.left_s = -9.0  # 2.6 s
    assert kinds(known) == []


def test_what_was_made_for_it_is_measured_though_there_would_be_no_time_to_make_it():
    known = over_the_budget()
    known.total_s, known.reserve_s = 120.0, 4.0
    known.left_s = -5.0
    assert step(known).kind == "first"
    assert step(known).kind == "make"
    known.left_s = -10.5  # a second is left: enough to measure
    assert kinds(known) == ["measure"]


def test_no_other_network_answers_where_the_others_would_be_as_slow():
    assert kinds(over_the_budget(8.6)) == []  # 4.3 ms in int8, slowed down from 4.4 to 5.4 as another was


def test_an_artifact_is_judged_and_compressed_without_training():
    known = Known(asked(names=("a",), kind="torch"))
    known.time("a", 4.0)
    assert kinds(known) == ["given"]
    known.done(tasks.ready(known.now())[0].key, {"hits": 90, "images": 100})
    assert kinds(known)[0] == "make"
    assert point(known.search, contender(known.search, "a")).width == 1


def test_what_was_timed_has_to_do_if_timing_takes_too_long():
    known = Known(asked())
    one = contender(known.search, "a")
    found = point(known.search, one)
    known.left_s = 400.0
    assert set(kinds(known)) == {"time"}
    known.done(f"time/{found.digest}", timed(4.0, point=found.digest))
    assert kinds(known) == ["plan"]
    known.done("plan", {"contenders": [one.key], "epochs": 2, "rungs": [2]})
    assert kinds(known) == ["first"]
    known.left_s = 990.0
    assert kinds(known) == ["first"]


def test_a_large_space_is_looked_at_in_rounds_of_what_seems_best():
    known = Known(asked(names=tuple("abcdefghij"), sizes=tuple(range(32, 104, 8))))
    assert kinds(known) == ["propose"]
    rounds = []
    for _ in range(3):
        task = tasks.ready(known.now())[0]
        assert task.key == f"propose/{len(rounds)}"
        found = proposing.propose(known.search, known.now().results)
        assert found == proposing.propose(known.search, known.now().results)  # any worker would propose the same
        rounds.append(found.contenders)
        known.done(task.key, found)
        for one in known.search.contenders:
            if one.key in found.contenders:
                quality = "abcdefghij".index(one.network.name[-1]) / 10
                known.time(one.network.name[-1], 0.1 * one.image_size, size=one.image_size, width=1.0)
                known.time(one.network.name[-1], 0.01 * one.image_size, size=one.image_size, width=0.35)
                known.rank(one.network.name[-1], quality, size=one.image_size)
    every = [key for one in rounds for key in one]
    assert len(every) == len(set(every)) == 3 * proposing.ROUND
    known.left_s = 400.0
    assert kinds(known) == ["plan"]


@pytest.mark.parametrize(("problem", "expected"), [(True, None), (False, 0.9)])
def test_a_drop_is_counted_from_the_artifact_if_it_could_be_judged(problem, expected):
    known = Known(asked(names=("a",), kind="torch"))
    known.time("a", 4.0)
    key = tasks.ready(known.now())[0].key
    known.done(key, {"problem": "It does not open."} if problem else {"hits": 90, "images": 100})
    assert deciding.reference(known.now()) == expected


@pytest.mark.parametrize("own", [True, False])
def test_an_artifact_is_trained_for_int8_only_on_its_own_images(own):
    known = Known(replace(asked(names=("a",), kind="torch", precisions=("fp32", "int8", "qat")), own=own))
    known.time("a", 4.0)
    known.done(tasks.ready(known.now())[0].key, {"hits": 90, "images": 100})
    ways = set()
    while task := (tasks.ready(known.now()) or [None])[0]:
        step(known, accuracy=0.7)
        ways |= {task.variant.way} if task.variant is not None else set()
    assert ways == ({"plain", "mixed", "trained"} if own else {"plain", "mixed"})


@pytest.mark.parametrize(("backend", "place"), [("onnxruntime", "train"), ("tensorrt", "measure")])
def test_an_engine_is_built_on_the_machine_that_it_is_for(backend, place):
    search = asked(names=("a",), kind="torch")
    known = Known(replace(search, space=replace(search.space, backends=(backend,))))
    known.time("a", 4.0)
    known.done(tasks.ready(known.now())[0].key, {"hits": 90, "images": 100})
    task = tasks.ready(known.now())[0]
    assert (task.kind, task.place) == ("make", place)
