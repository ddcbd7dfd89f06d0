"""The whole chain on the smallest networks of each kind, and how benchmarks/architectures.py tells of it."""

import architectures
import pytest
from architecture_names import ODD, names
from architecture_page import STEPS, WORKS, page

import tlopt

SMALL = (*(f"odd_architectures:{name}" for name in ODD), "timm:test_resnet", "timm:test_byobnet", "timm:test_nfnet")


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL)
def test_a_network_goes_through_the_chain(model, tmp_path, monkeypatch):
    from tlopt import verdict

    monkeypatch.setattr(verdict, "SECONDS", 0.01)
    tlopt.trust(model.partition(":")[0]) if model.startswith("odd") else None
    found = {}
    for name, run in architectures.steps(model, tmp_path).items():
        if not name.startswith("engine"):
            found |= run() or {}
    assert found["pruned"] >= 0.1
    assert found["int8 share openvino"] > 0.9


def row(**steps):
    return {
        "steps": dict.fromkeys(STEPS, WORKS) | steps, "pruned": 0.3, "asked": 0.3, "kept": "", "seconds": {},
    }  # fmt: skip


def test_the_page_gives_the_shares_and_every_reason():
    told = page(
        {"timm:a": row(), "timm:b": row(prune="It cannot be traced."), "timm:c": row(prune="It cannot be traced.")}, 9
    )
    assert "3 of 9 networks were run." in told
    assert "| prune | 1 | 3 | 33.3 % | 95 % |" in told
    assert "| export | 3 | 3 | 100.0 % | 98 % |" in told
    assert "- **prune**, `timm:b`, `timm:c`: It cannot be traced." in told


def test_what_is_pruned_less_is_told_with_the_layers_that_stay():
    told = page({"timm:a": row() | {"pruned": 0.1, "kept": "These layers keep their channels: x, because y."}}, 1)
    assert "- `timm:a`, 10 %: These layers keep their channels: x, because y." in told


def test_each_network_is_named_once():
    assert len(set(names())) == len(names()) > 100
