"""What every target has to define."""

from __future__ import annotations

import sys
import types
from dataclasses import fields

import pytest
from brightest import write_onnx

import tlopt
from tlopt import registry
from tlopt.deployment.job import Checks, Serving, Written

TARGETS = registry.names("targets")


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_says_what_it_takes(name):
    target = registry.load("targets", name)
    assert set(target.BACKENDS) <= {"onnx", "tensorrt"}
    assert all(set(names) <= set(registry.names("backends")) for names in target.BACKENDS.values())
    assert target.INPUTS
    assert set(target.INPUTS) <= {"image", "pixels"}
    assert {field.name for field in fields(Serving)} >= target.USES
    assert isinstance(target.SEVERAL, bool)
    assert all(callable(getattr(target, part)) for part in ("examine", "write", "problem", "check"))
    assert (target.__doc__ or "").strip()


def test_a_new_target_is_one_file(monkeypatch, tmp_path):
    """All that the verb needs of a target is what its file defines."""
    module = types.ModuleType("tlopt.deployment.targets.bare_metal")
    module.BACKENDS, module.INPUTS = {"onnx": ("onnxruntime",)}, ("image",)
    module.USES, module.SEVERAL = frozenset(), False
    module.examine = module.problem = lambda _: ""
    module.write = lambda _, folder: Written(how=(f"run {(folder / 'x').write_bytes(b'x')}",))
    module.check = lambda job, _: Checks(by=job.target)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = registry.names
    monkeypatch.setattr(registry, "names", lambda group: (*names(group), "bare-metal"))
    made = tlopt.deploy(write_onnx(tmp_path / "tiny"), tmp_path / "out", for_="bare-metal")
    assert made.manifest.check.by == "bare-metal"
    assert list(made.manifest.files) == ["x"]
