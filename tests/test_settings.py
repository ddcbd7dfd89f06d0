import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlopt import settings
from tlopt.errors import SettingError
from tlopt.settings import (
    Setting,
    Without,
    arguments,
    check,
    check_kind,
    checked,
    flat,
    flat_signature,
    parameters,
    ruled,
)


def example(
    source: str,
    *,
    ratio: Annotated[float, Setting("Share.", minimum=0, maximum=0.95)] = 0.5,
    epochs: Annotated[int, Setting("Passes.", minimum=1)] = 3,
    precision: Annotated[Literal["int8", "fp16"], Setting("Precision.")] = "int8",
    batch: Annotated[tuple[int, ...], Setting("Batches.", minimum=1)] = (1, 8),
    images: Annotated[Path | None, Setting("Images.")] = None,
    for_: Annotated[str, Setting("Runtime.")] = "x",
    criterion: Annotated[str, Setting("Ranking.", plugins="criteria")] = "magnitude",
    quick: Annotated[bool, Setting("Quick.")] = False,
    internal: object = None,
) -> None:
    """Do nothing."""


def required(*, classes: Annotated[Path, Setting("Class names.")]) -> None:
    """Do nothing."""


def test_parameters_are_the_annotated_keyword_only_ones():
    names = [parameter.name for parameter in parameters(example)]
    assert names == ["ratio", "epochs", "precision", "batch", "images", "for", "criterion", "quick"]


def test_check_fills_in_the_defaults():
    chosen = check(example, {})
    assert chosen["ratio"] == 0.5
    assert chosen["batch"] == (1, 8)
    assert chosen["images"] is None
    assert "internal" not in chosen


def test_check_takes_what_toml_and_the_command_line_give():
    chosen = check(example, {"ratio": "0.25", "batch": [2, 4], "images": "here", "epochs": 5.0})
    assert chosen["ratio"] == 0.25
    assert chosen["batch"] == (2, 4)
    assert chosen["images"] == Path("here")
    assert chosen["epochs"] == 5
    assert check(example, {"batch": "1,16"})["batch"] == (1, 16)


def test_a_keyword_of_python_loses_its_underscore():
    assert check(example, {"for": "a"})["for_"] == "a"
    assert check(example, {"for_": "b"})["for_"] == "b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratio": 2}, r"ratio must be between 0 and 0\.95, got 2"),
        ({"ratio": float("nan")}, "ratio must be a number"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": 2.5}, r"epochs must be a whole number, got 2\.5"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"quick": "yes"}, "quick must be true or false"),
        ({"precision": "int4"}, "precision cannot be 'int4'"),
        ({"criterion": "magnitud"}, "criterion cannot be 'magnitud'"),
        ({"batch": [0]}, "batch must be at least 1, got 0"),
        ({"batch": ""}, "batch needs at least one value"),
        ({"images": 3}, "images must be the name of a file or folder"),
        ({"images": ""}, "images must be the name of a file or folder, got ''"),
        ({"images": "~/photos"}, "images begins with ~, which only a shell takes for your home folder"),
        ({"for": 3.5j}, "'for' must be text"),
        ({"epochs": 10**30}, "epochs must be a number of at most 63 bits, got one of 100"),
        ({"batch": [1, -(10**30)]}, "batch must be a number of at most 63 bits"),
        ({"ratios": 1}, "example has no setting 'ratios'"),
    ],
)
def test_check_refuses(values, message):
    with pytest.raises(SettingError, match=message):
        check(example, values)


def test_a_range_is_told_with_all_digits():
    def count(*, batch: Annotated[int, Setting("Images.", minimum=1, maximum=1_000_000)] = 1): ...

    with pytest.raises(SettingError, match="batch must be between 1 and 1000000, got 99999999999"):
        check(count, {"batch": 99999999999})


def test_an_unknown_name_gets_its_close_match():
    with pytest.raises(SettingError) as caught:
        check(example, {"epoch": 1})
    assert caught.value.hint == "Did you mean 'epochs'?"


def test_a_required_setting_must_be_given():
    with pytest.raises(SettingError, match="required needs a value for classes"):
        check(required, {})


def test_a_setting_that_reads_as_a_word_is_quoted():
    def run(*, for_: Annotated[Literal["a", "b"], Setting("Runtime.")]) -> None: ...

    with pytest.raises(SettingError, match="run needs a value for 'for'"):
        check(run, {})
    with pytest.raises(SettingError, match="'for' cannot be 'c'"):
        check(run, {"for": "c"})


def test_no_values_are_taken_where_that_is_the_default():
    def run(*, names: Annotated[tuple[str, ...], Setting("Names.")] = ()) -> None: ...

    assert check(run, {"names": []}) == {"names": ()}
    assert check(run, {"names": ""}) == {"names": ()}


@dataclass(frozen=True, kw_only=True)
class Speed:
    fast: Annotated[bool, Setting("Hurry.", group="Speed", common=True)] = False
    limit: Annotated[float, Setting("Most.", minimum=0, group="Speed")] = 1.0
    inner: int = 3


def recorded(
    source: str,
    *,
    epochs: Annotated[int, Setting("Passes.", minimum=1)] = 3,
    speed: Speed,
    other: object = None,
) -> tuple[int, Speed]:
    """Return what arrives."""
    return epochs, speed


def test_the_fields_of_a_record_are_settings_of_their_own():
    found = {parameter.name: parameter for parameter in parameters(recorded)}
    assert list(found) == ["epochs", "fast", "limit"]
    assert (found["fast"].group, found["fast"].common, found["fast"].default) == ("Speed", True, False)
    assert (found["epochs"].group, found["epochs"].common) == ("", False)


def test_settings_stay_flat_until_the_function_is_called():
    chosen = check(recorded, {"limit": "2.5"})
    assert chosen == {"epochs": 3, "fast": False, "limit": 2.5}
    assert recorded("x", **arguments(recorded, chosen)) == (3, Speed(limit=2.5))


def test_a_wrong_value_of_a_record_is_refused_like_any_other():
    with pytest.raises(SettingError, match="limit must be at least 0, got -1"):
        check(recorded, {"limit": -1})
    with pytest.raises(SettingError, match="recorded has no setting 'inner'"):
        check(recorded, {"inner": 1})


def test_a_record_as_a_default_gives_its_fields_as_defaults_and_keeps_what_is_left_out():
    def run(*, speed: Annotated[Speed, Without("fast")] = Speed(fast=True, limit=7.0, inner=5)) -> Speed:
        return speed

    assert check(run, {}) == {"limit": 7.0}
    assert run(**arguments(run, check(run, {"limit": 2}))) == Speed(fast=True, limit=2.0, inner=5)


def test_a_signature_shows_the_settings_and_not_the_records():
    assert list(flat_signature(recorded).parameters) == ["source", "epochs", "fast", "limit", "other"]


def test_callers_of_a_function_give_the_fields_of_its_records():
    called = flat(recorded)
    assert called("x", limit=2, other=object()) == (3, Speed(limit=2.0))
    assert list(inspect.signature(called).parameters) == ["source", "epochs", "fast", "limit", "other"]
    with pytest.raises(SettingError, match="recorded has no setting 'speed'"):
        called("x", speed=Speed())


def test_a_checked_function_without_records_keeps_its_signature():
    assert inspect.signature(checked(example)) == inspect.signature(example)


FITTING = st.fixed_dictionaries(
    {},
    optional={
        "ratio": st.floats(0, 0.95),
        "epochs": st.integers(1, 10**6),
        "precision": st.sampled_from(["int8", "fp16"]),
        "batch": st.lists(st.integers(1, 512), min_size=1, max_size=4),
        "images": st.sampled_from(["here", "a/b", "."]),
        "for": st.text(max_size=8),
        "quick": st.booleans(),
    },
)
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.lists(st.integers(), max_size=3)
)


@given(values=FITTING)
def test_what_fits_is_taken_and_checking_it_again_changes_nothing(values):
    chosen = check(example, values)
    assert check(example, chosen) == chosen
    for name, value in values.items():
        found = chosen["for_" if name == "for" else name]
        assert found == {"batch": tuple, "images": Path}.get(name, lambda same: same)(value)


@given(values=FITTING)
def test_text_says_the_same_as_numbers(values):
    def text(value):
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    told = {name: text(value) if name in ("ratio", "epochs", "batch") else value for name, value in values.items()}
    assert check(example, told) == check(example, values)


@given(name=st.sampled_from([*(parameter.name for parameter in parameters(example)), "other"]), value=ANYTHING)
def test_any_value_is_taken_within_its_range_or_is_one_error(name, value):
    try:
        chosen = check(example, {name: value})
    except SettingError as error:
        assert name in error.message  # noqa: PT017 - most are errors, some are taken
        return
    assert 0 <= chosen["ratio"] <= 0.95
    assert chosen["epochs"] >= 1
    assert chosen["precision"] in ("int8", "fp16")
    assert min(chosen["batch"]) >= 1
    assert isinstance(chosen["quick"], bool)


SIZES = {"small": {"epochs": 1, "rate": 0.5}, "usual": {}, "large": {"epochs": 9}}


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings that another one sets."""

    epochs: Annotated[int, Setting("Passes.", minimum=1)] = 3
    rate: Annotated[float, Setting("Rate.")] = 0.1


def sized(
    *, training: Training, size: Annotated[Literal["small", "usual", "large"], Setting("Size.", sets=SIZES)] = "usual"
) -> None:
    """Do nothing."""


def test_a_setting_gives_values_to_others_that_are_not_given():
    assert check(sized, {}) == {"epochs": 3, "rate": 0.1, "size": "usual"}
    assert check(sized, {"size": "small"}) == {"epochs": 1, "rate": 0.5, "size": "small"}
    assert check(sized, {"epochs": 3, "size": "large"}) == {"epochs": 3, "rate": 0.1, "size": "large"}
    with pytest.raises(SettingError, match="size cannot be 'lage'") as caught:
        check(sized, {"size": "lage"})
    assert "large" in caught.value.hint


def fitted(
    *,
    training: Training,
    seed: Annotated[int, Setting("Seed.")] = 0,
    how: Annotated[Literal["train", "fit"], Setting("How.", idles={"fit": ("epochs", "rate")})] = "train",
    size: Annotated[
        Literal["usual", "large", "none"], Setting("Size.", sets={**SIZES, "none": {"how": "fit"}})
    ] = "usual",
) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"how": "fit", "epochs": 1}, "epochs has no effect with how fit", "Leave it out, or give another --how"),
        ({"how": "fit", "epochs": 1, "rate": 1, "seed": 1}, "epochs and rate have no effect with how fit", "them"),
        ({"how": "fit", "size": "large"}, "size has no effect with how fit", "--how"),
        ({"size": "none", "rate": 2}, "rate has no effect with how fit, which size none sets", "--size or --how"),
    ],
)
def test_a_setting_without_effect_is_refused(given, message, hint):
    with pytest.raises(SettingError, match=message) as raised:
        check(fitted, given)
    assert hint in raised.value.hint


@pytest.mark.parametrize("given", [{"how": "fit"}, {"size": "none", "seed": 4}, {"how": "fit", "epochs": 3}])
def test_a_setting_without_effect_is_not_recorded(given):
    chosen = check(fitted, given)
    assert check(fitted, chosen) == chosen  # recipes check them twice
    assert settings.recorded(fitted, chosen).keys() == {"seed", "how", "size"}
    assert settings.recorded(fitted, check(fitted, {"epochs": 2})).keys() == {"seed", "how", "size", "epochs", "rate"}


def refuse_long(speed: Speed, epochs: int) -> None:
    if speed.limit * epochs > 2:
        raise SettingError("limit and epochs are too much together.")


def refuse_images(speed: Speed, kind: str) -> None:
    if kind == "images" and speed.limit:
        raise SettingError("limit is for an artifact.")


@flat
@ruled(refuse_long, refuse_images)
def ruled_function(source, *, speed: Speed, epochs: Annotated[int, Setting("Passes.")] = 2):
    return speed.limit * epochs


def test_rules_between_settings_are_asked_wherever_they_are_checked():
    for refused in (lambda: check(ruled_function, {"limit": 1.1}), lambda: ruled_function(None, limit=1.1)):
        with pytest.raises(SettingError, match="too much together"):
            refused()
    assert ruled_function(None, limit=0.5) == 1


def test_rules_about_what_is_worked_on_are_asked_when_that_is_known():
    chosen = check(ruled_function, {"limit": 0.5})
    check_kind(ruled_function, chosen, "torch")
    with pytest.raises(SettingError, match="limit is for an artifact"):
        check_kind(ruled_function, chosen, "images")


def test_a_card_keeps_no_setting_that_says_nothing_later():
    def mixed(
        *,
        names: Annotated[tuple[str, ...], Setting("Names.")],
        others: Annotated[tuple[str, ...], Setting("Folders.", passing=True)],
    ): ...

    chosen = check(mixed, {"names": ["a"], "others": ["work/1"]})
    assert settings.recorded(mixed, chosen) == {"names": ("a",)}
