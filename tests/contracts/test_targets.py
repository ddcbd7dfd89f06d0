"""What every target has to define."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tlopt import registry
from tlopt.deployment.job import Serving

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
