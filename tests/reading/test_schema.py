import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from benchmarks import mutations
from tlopt.artifact import Artifact, seal
from tlopt.backends import open_runner
from tlopt.cards.card import CARD_NAME, Card
from tlopt.errors import ArtifactError, ImagesError, SettingError, TloptError
from tlopt.graphs.loading import load_graph
from tlopt.images import manifest
from tlopt.measure.speed.baseline import read_baseline
from tlopt.preprocess import Preprocess
from tlopt.publishing import draft
from tlopt.reading.schema import Positive, SchemaError, convert, parse_json, parse_toml
from tlopt.recipes.tables import Recipe
from tlopt.show import show

MANY = settings(
    max_examples=120, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
SEEDS = st.integers(0, 10**6)


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: Positive
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    named: Mapping[str, Inner] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "missing required field `name`"),
        ({"name": 3}, "the field name: expected `str`, got `int`"),
        ({"name": "a", "inner": {"size": "3"}}, "the field inner.size: expected `int`, got `str`"),
        ({"name": "a", "inner": {"size": True}}, "the field inner.size: expected `int`, got `bool`"),
        ({"name": "a", "inner": {"size": 0}}, "the field inner.size: expected `int` >= 1"),
        ({"name": "a", "inner": {"size": 1, "sise": 1}}, "the field inner has the unknown key sise.*'size'"),
        ({"name": "a", "many": [{"size": 1}, {"size": 2, "b": 1}]}, r"the field many\[1\] has the unknown key b"),
        ({"name": "a", "named": {"x": {"size": 1, "b": 1}}}, "the field named.x has the unknown key b"),
        ({"name": "a", "inner": {"size": 1, "share": math.nan}}, "the field inner.share must be a finite number"),
        ({"name": "a", "inner": {"size": 10**400}}, "the field inner.size must be a number of at most 64 bits"),
        ({"name": "\ud800"}, "the field name is not Unicode text"),
        ([], "the whole content: expected `object`, got `array`"),
    ],
)
def test_what_does_not_fit_is_named_with_its_field(value, problem):
    with pytest.raises(SchemaError, match=problem):
        convert(value, Outer)


def test_the_bytes_of_a_file_name_that_are_no_utf_8_are_text():
    assert convert({"name": "\udcff.png"}, Outer).name == "\udcff.png"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = " + "[" * 5000, "nested deeper"),
        ("x = inf", "the field x must be a finite number, got inf"),
        ("x = " + "9" * 400, "the field x must be a number of at most 64 bits"),
        ("x = " + "9" * 5000, "not valid TOML"),
        ("[a]\nx = nan", "the field a.x must be a finite number"),
        ("x", "not valid TOML"),
    ],
)
def test_a_toml_text_that_nothing_can_use_is_one_error(text, problem):
    with pytest.raises(SchemaError, match=problem):
        parse_toml(text)


def test_numbers_that_are_not_finite_are_json_where_that_was_allowed():
    assert math.isnan(parse_json("[NaN]", finite=False)[0])
    with pytest.raises(SchemaError, match=r"the field \[0\] must be a finite number, got nan"):
        parse_json("[NaN]")


# What follows: whatever is damaged, and however, the answer is the content or one error of ours.


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An ONNX artifact of one layer."""
    path = tmp_path_factory.mktemp("small") / "artifact"
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "weight")
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [weight],
    )  # fmt: skip
    with draft(path) as scratch:
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), scratch / "m.onnx"
        )
        card = Card(
            kind="onnx", model="test:small", precision="fp32", classes=("a", "b", "c", "d"),
            preprocess=Preprocess(size=8),
        )  # fmt: skip
        seal(scratch, card)
    return path


@MANY
@given(seed=SEEDS)
def test_a_damaged_card_is_read_or_is_one_error(seed, small, tmp_path):
    text = (small / CARD_NAME).read_text()
    made = mutations.damaged_json(text, seed)[1]
    (tmp_path / CARD_NAME).write_text(made, encoding="utf-8", errors="surrogatepass")
    (tmp_path / "m.onnx").write_bytes((small / "m.onnx").read_bytes())
    try:
        show(tmp_path).table()
    except TloptError as error:
        assert str(tmp_path) in error.message  # noqa: PT017 - most are errors, some are read


RECIPE = """
out = "out"
[tuned]
finetune = "."
model = "timm:resnet18"
epochs = 3
lr = 0.001
image_size = 64
[fp32]
export = "tuned"
[report]
report = ["tuned", "fp32"]
"""


@MANY
@given(seed=SEEDS)
def test_a_damaged_recipe_is_read_or_is_one_error(seed, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(mutations.damaged_toml(RECIPE, seed)[1], encoding="utf-8", errors="surrogatepass")
    try:
        Recipe.read(file)
    except TloptError as error:
        assert str(file) in error.message  # noqa: PT017 - most are errors, some are read


@MANY
@given(seed=SEEDS)
def test_a_damaged_manifest_is_read_or_is_one_error(seed, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    file = tmp_path / "images.csv"
    text = "path,label,split,origin\na.png,cat,train,camera\nb.png,dog,val,\n"
    made = mutations.damaged_text(text, seed)[1].encode("utf-8", "surrogatepass")
    file.write_bytes(mutations.damaged_bytes(made, seed)[1] if seed % 3 == 0 else made)
    try:
        assert manifest.read(file)
    except ImagesError as error:
        assert str(file) in error.message  # noqa: PT017 - most are errors, some are read


@MANY
@given(seed=SEEDS)
def test_a_damaged_graph_runs_or_is_one_error(seed, small, tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(mutations.damaged_bytes((small / "m.onnx").read_bytes(), seed)[1])
    seal(tmp_path, Artifact.load(small).card)
    try:
        load_graph(file)
    except ArtifactError as error:
        assert str(file) in error.message  # noqa: PT017 - most are errors, some are read
        return
    try:
        with open_runner(Artifact.load(tmp_path), "onnxruntime") as runner:
            assert runner.name
    except TloptError as error:
        assert str(tmp_path) in error.message  # noqa: PT017 - most are errors, some are read


@MANY
@given(seed=SEEDS)
def test_a_damaged_baseline_is_read_or_is_one_error(seed, tmp_path):
    file = tmp_path / "baseline.json"
    report = {
        "title": "t", "rows": [{"artifact": "a", "p50_ms": 1.0}], "notes": [], "breaches": [], "conditions": {"x": [1]},
        "details": {"turn_medians_ms": {"a on b, batch 1": [1.0, 2.0]}},
    }  # fmt: skip
    file.write_text(mutations.damaged_json(json.dumps(report), seed)[1], encoding="utf-8", errors="surrogatepass")
    try:
        read_baseline(file)
    except SettingError as error:
        assert str(file) in error.message  # noqa: PT017 - most are errors, some are read


def test_mutators_are_decided_by_their_seed():
    content = json.dumps({"a": [1, 2], "b": {"c": "d"}})
    for damaged in (mutations.damaged_json, mutations.damaged_text):
        assert [damaged(content, seed) for seed in range(40)] == [damaged(content, seed) for seed in range(40)]
    assert mutations.damaged_bytes(b"abc" * 50, 3) == mutations.damaged_bytes(b"abc" * 50, 3)
    for mutate in mutations.BYTES.values():
        assert isinstance(mutate(b"", random.Random(0)), bytes)


def test_a_path_too_long_for_any_file_is_nowhere(tmp_path):
    with pytest.raises(ArtifactError, match="There is no artifact at"):
        Artifact.load("a" * 5000)
    file = tmp_path / "recipe.toml"
    file.write_text(f'out = "o"\n[a]\nexport = "{"a" * 5000}"\n')
    with pytest.raises(SettingError, match="neither an earlier step nor a path"):
        Recipe.read(file)


@pytest.mark.parametrize("name", ["../x", "/x", ".steps.json", "a/b", ""])
def test_the_name_of_a_step_stays_in_the_folder_of_results(name, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(f'out = "o"\n[{json.dumps(name)}]\nfinetune = "."\n')
    with pytest.raises(SettingError, match="cannot be the name of a step"):
        Recipe.read(file)
