import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlopt.artifact import Artifact
from tlopt.cards.card import CARD_NAME, SCHEMA, Card, ImagesRef, Step
from tlopt.cards.details import KINDS, Macs, OnnxDetails, TorchDetails
from tlopt.errors import ArtifactError
from tlopt.preprocess import Preprocess
from tlopt.show import show

OLD = Path(__file__).parent / "0.1.0"

# What tlopt 0.1.0 said of the artifacts that the stored cards belong to.
DIGESTS = {
    "torch": "f1085659d01afc71015da05a7af5a7483d016cd0cf215b0a4a1650d592281447",
    "onnx": "da00072400da99fbcf6b4ada2751d1ae250ce95d12b231c93b3c8177bc2b8619",
    "onnx-searched": "78ce9b55193cd9254d748d9249f13eee944601e10e2ba9562d5a7ab01300b5f8",
    "tensorrt": "b72ede6b262555b911f7ba38b1c3a604fc7e9b6d2cf405d83328a770472d2a2a",
}


def old(name: str) -> str:
    return (OLD / f"{name}.json").read_text(encoding="utf-8")


def changed(name: str = "onnx", **changes: object) -> str:
    return json.dumps({**json.loads(old(name)), **changes})


@pytest.mark.parametrize("name", DIGESTS)
def test_a_card_of_the_first_version_is_read_and_its_artifact_keeps_its_digest(name):
    card = Card.from_json(old(name))
    assert isinstance(card.details, KINDS[card.kind])
    assert Artifact(path=Path(name), card=card).digest == DIGESTS[name]
    again = Card.from_json(card.to_json())
    assert again == card
    assert json.loads(card.to_json())["schema"] == SCHEMA
    assert Artifact(path=Path(name), card=again).digest == DIGESTS[name]


def test_a_torch_card_of_the_first_version_has_all_that_a_later_stage_reads():
    raw, card = json.loads(old("torch")), Card.from_json(old("torch"))
    given, details = raw["details"], card.torch
    assert details.groups == given["groups"]
    assert details.macs == Macs(**given["macs"])
    assert details.pruned.criterion == given["pruned"]["criterion"]
    assert details.pruned.sparsity == "none"
    assert len(details.pruned.recovery) == 1
    assert details.qat.runtime == "onnxruntime"
    assert details.qat.reduce_range is given["qat"]["reduce_range"]
    assert details.qat.scales == {name: tuple(pair) for name, pair in given["qat"]["scales"].items()}
    assert details.metrics == given["metrics"]
    assert card.images.digest == raw["images"]["digest"]
    assert [step.stage for step in card.lineage] == ["finetune", "prune", "finetune"]


def test_an_onnx_card_of_the_first_version_has_all_that_a_later_stage_reads():
    given, details = json.loads(old("onnx"))["details"], Card.from_json(old("onnx")).onnx
    assert (details.opset, details.fixed_batch) == (given["opset"], 0)
    assert details.parity.difference == given["parity"]["difference"]
    assert details.network.macs == Macs(**given["macs"])
    assert details.qat.scales.keys() == given["qat"]["scales"].keys()
    quantized = details.quantized
    assert (quantized.runtime, quantized.quantizer) == ("onnxruntime", "trained")
    assert quantized.reduce_range is given["reduce_range"]
    assert quantized.measured.agreement == given["measured"]["agreement"]
    assert quantized.measured.latency_ms["1"].source == given["measured"]["latency_ms"]["1"]["source"]


def test_what_a_search_of_the_first_version_found_is_shown():
    card = Card.from_json(old("onnx-searched"))
    given, found = json.loads(old("onnx-searched"))["details"]["sensitivity"], card.quantized.sensitivity
    assert found.met is given["met"]
    assert len(found.trade_off) == len(given["trade_off"])
    assert found.blocks.keys() == given["blocks"].keys()
    notes = show(Artifact(path=Path("q"), card=replace(card, files={}))).notes
    assert any(note.startswith("Trade-off: ") for note in notes)


def test_an_engine_card_of_the_first_version_has_all_that_opening_reads():
    given, details = json.loads(old("tensorrt"))["details"], Card.from_json(old("tensorrt")).engine
    assert (details.flavour, details.version, details.cuda) == ("rtx", given["version"], given["cuda"])
    assert details.targets == tuple(given["targets"])
    assert details.profile.shape == tuple(given["profile"]["shape"])
    assert details.options.hardware_compatible == given["options"]["hardware_compatible"]
    assert details.onnx.sha256 == given["onnx"]["sha256"]
    assert details.inspector.layers == given["inspector"]["layers"]
    assert details.device == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "10.13.2.6\n--index-url=x"}, {"version": "10.13.2.6\n"}, {"version": "10 ; x"}, {"version": ""},
        {"targets": ["sm89\n"]}, {"targets": ["../sm89"]}, {"targets": ["89"]},
    ],
)  # fmt: skip
def test_an_engine_card_that_would_write_lines_elsewhere_is_refused(changes):
    given = json.loads(old("tensorrt"))["details"]
    with pytest.raises(ArtifactError, match=next(iter(changes))):
        Card.from_json(changed("tensorrt", details={**given, **changes}))


@pytest.mark.parametrize(
    "version", ["10.13.2.6", "11.0.0.114", "1.7.1.116", "10.0.0b6", "10.14.1.48.post1", "11.4+cu13"]
)
def test_an_engine_card_may_hold_any_version_that_a_package_has(version):
    given = json.loads(old("tensorrt"))["details"]
    text = changed("tensorrt", details={**given, "version": version, "targets": ["sm90a", "sm120"]})
    assert Card.from_json(text).engine.version == version


def test_a_graph_of_a_fixed_batch_keeps_it():
    given = json.loads(old("onnx"))["details"]
    assert Card.from_json(changed(details={**given, "batch": [4, 4]})).onnx.fixed_batch == 4


def test_a_number_that_is_not_finite_in_the_record_of_a_training_hinders_nothing():
    given = json.loads(old("torch"))["details"]
    text = changed("torch", details={**given, "metrics": {"loss": math.nan}})
    card = Card.from_json(text)
    assert card.torch.metrics == {"loss": None}
    written = replace(card, details=TorchDetails(metrics={"loss": math.inf})).to_json()
    assert Card.from_json(written).torch.metrics == {"loss": None}


def test_whole_numbers_stay_whole_in_the_digest():
    card = Card(
        kind="onnx", model="test:tiny", precision="fp32", classes=("a", "b"),
        preprocess=Preprocess(size=8, crop_ratio=1, mean=(0, 0, 0), std=(1, 1, 1)),
    )  # fmt: skip
    again = Card.from_json(card.to_json())
    assert Artifact(path=Path(), card=again).digest == Artifact(path=Path(), card=card).digest


PREPROCESS = json.loads(old("onnx"))["preprocess"]
STEP = json.loads(old("onnx"))["lineage"][0]

DAMAGED = {
    "files": {"files": ["model.onnx"]},
    "files names a file outside of its folder, 'a\\\\x00b'": {"files": {"a\0b": "0" * 64}},
    r"files\[...\]: expected `str` matching": {"files": {"model.onnx": "0"}},
    "files names a file outside": {"files": {"/etc/passwd": "0" * 64}},
    "kind": {"kind": ["onnx"]},
    "kind: expected `str`, got `bool`": {"kind": False},
    r"classes\[1\]": {"classes": ["a", None, {"b": 1}]},
    "classes names no class": {"classes": []},
    "classes names 'a' twice": {"classes": ["a", "b", "a"]},
    "preprocess.size must be a number of at most 64 bits": {"preprocess": {**PREPROCESS, "size": 10**400}},
    "preprocess: the image size": {"preprocess": {**PREPROCESS, "size": -3}},
    r"preprocess.mean\[0\]": {"preprocess": {**PREPROCESS, "mean": ["a", 0, 0]}},
    "preprocess has the unknown key sise": {"preprocess": {**PREPROCESS, "sise": 3}},
    "details": {"details": []},
    r"lineage\[0\].settings": {"lineage": [{**STEP, "settings": 5}]},
    r"lineage\[0\].source": {"lineage": [{**STEP, "source": 5}]},
    "images.path": {"images": {"path": 1, "digest": "x", "val": 0, "test": 0, "seed": 0}},
    "images.path.*": {"images": {"path": "", "digest": "x", "val": 0, "test": 0, "seed": 0}},
    "images.seed": {"images": {"path": "x", "digest": "x", "val": 0, "test": 0, "seed": -5}},
    "images.val": {"images": {"path": "x", "digest": "x", "val": 1.5, "test": 0, "seed": 0}},
    "model": {"model": ["a"]},
    "precision": {"precision": "fp12"},
    "model is not Unicode text": {"model": "\ud800"},
    "the unknown key colour": {"colour": "red"},
    "schema": {"schema": True},
    "details.network.groups": {"details": {"groups": {"conv": -1}}},
}


@pytest.mark.parametrize("field", DAMAGED)
def test_a_damaged_card_is_one_error_that_names_the_field(field, tmp_path):
    (tmp_path / CARD_NAME).write_text(changed(**DAMAGED[field]))
    with pytest.raises(ArtifactError, match=rf"{CARD_NAME}: The card is damaged: .*{field}"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "nested deeper"),
        ('{"schema": 2, "details": ' + "[" * 200 + "]" * 200 + "}", "nested deeper"),
        ('{"schema": 1, "schema": 2}', "names schema twice"),
        ('{"schema": ' + "9" * 5000 + "}", "not JSON"),
        ("", "not JSON"),
        ("3", "schema"),
    ],
)
def test_a_text_that_is_no_card_is_one_error(text, problem):
    with pytest.raises(ArtifactError, match=f"The card is damaged: .*{problem}"):
        Card.from_json(text)


def test_an_unknown_key_of_this_schema_is_an_error_with_the_close_match():
    raw = Card.from_json(old("onnx")).to_dict()
    raw["details"]["quantized"]["runtimes"] = "x"
    with pytest.raises(ArtifactError, match=r"details\.quantized has the unknown key runtimes.*'runtime'"):
        Card.from_json(json.dumps(raw))


def test_numbers_that_are_not_finite_are_refused_where_something_reads_them():
    raw = Card.from_json(old("onnx")).to_dict()
    raw["details"]["parity"]["difference"] = math.nan
    with pytest.raises(ArtifactError, match=r"details\.parity\.difference must be a finite number, got nan"):
        Card.from_json(json.dumps(raw))


def test_a_card_knows_the_details_of_its_kind_only():
    with pytest.raises(AssertionError, match="OnnxDetails of kind torch"):
        Card(
            kind="torch", model="a:b", precision="fp32", classes=("a", "b"), preprocess=Preprocess(size=8),
            details=OnnxDetails(),
        )  # fmt: skip


TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
COUNTS, SHARES = st.integers(0, 10**12), st.floats(0, 1)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
CARDS = st.builds(
    Card,
    kind=st.just("torch"),
    model=TEXTS.map("own:{}".format),
    precision=st.sampled_from(["fp32", "bf16"]),
    classes=st.lists(TEXTS, min_size=2, max_size=5, unique=True).map(tuple),
    preprocess=st.builds(Preprocess, size=st.integers(1, 512), crop_ratio=st.floats(0.1, 1)),
    images=st.none() | st.builds(ImagesRef, path=TEXTS, digest=SHA256, val=SHARES, test=SHARES, seed=COUNTS),
    files=st.dictionaries(st.sampled_from(["model.safetensors", "metrics.jsonl"]), SHA256),
    lineage=st.lists(
        st.builds(
            Step,
            stage=TEXTS,
            settings=st.dictionaries(TEXTS, PLAIN, max_size=3),
            source=SHA256,
            seconds=st.floats(0, 1e6),
            versions=st.dictionaries(TEXTS, TEXTS, max_size=2),
            device=TEXTS,
        ),
        max_size=2,
    ).map(tuple),
    details=st.builds(
        TorchDetails,
        groups=st.dictionaries(TEXTS, st.integers(1, 512), max_size=2),
        macs=st.none() | st.builds(Macs, before=COUNTS, after=COUNTS),
        metrics=st.dictionaries(TEXTS, PLAIN, max_size=2),
        unreadable=st.dictionaries(TEXTS, TEXTS, max_size=2),
    ),
)


@pytest.mark.slow
@given(card=CARDS)
def test_any_card_is_read_as_it_was_written(card):
    again = Card.from_json(card.to_json())
    assert again == card
    assert again.to_json() == card.to_json()
