"""The table of benchmarks/rtx_engines.py."""

import importlib
from pathlib import Path

import pytest

VARIANTS = ("fp32", "int8", "fp8", "profiles")
ABOUT = {
    "builder": "TensorRT for RTX 1.7", "pixels": 64, "batches": [1, 8, 32], "processor": "Xeon",
    "versions": {"torch": "2.13"}, "command": "python benchmarks/rtx_engines.py",
}  # fmt: skip


def engine(share, **rest):
    return {"built": True, "share": share, "layers": 9, "size_mb": 1.5, "build_s": 0.5, "rest": rest, "strays": []}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("rtx_page").page


def test_the_table_has_shares_sizes_and_the_reasons_for_the_rest(page):
    results = {
        "timm:one": {
            "fp32": engine(1.0),
            "int8": engine(0.62, **{"the builder chose the type": 0.38}),
            "fp8": {"built": False, "why": "no kernel"},
            "profiles": {"built": True, "profiles": {"1 / 1 / 1": engine(0.5)}},
        },
        "timm:two": {"fp32": engine(0.9)},
    }
    text = page({"conditions": ABOUT, "results": results}, VARIANTS)
    assert "builds 3 of 4 engines of 2 networks" in text
    assert "In 2 of the 3, at least 90 %" in text
    assert "| timm:one | 100.0 | 62.0 | – |" in text
    assert "| timm:two | 90.0 |  |  |" in text
    assert "- timm:one, fp8: no kernel" in text
    assert "Below 90 %: timm:one int8." in text
    assert "- the builder chose the type: timm:one int8 38.0" in text
    assert "| timm:one | 50.0, 1.5 |" in text
    assert "timm:two fp32" not in text
