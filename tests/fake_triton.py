"""Stands in for the module that Triton's Python backend gives to models."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    pass


class TritonError(Exception):
    INVALID_ARG = 3

    def __init__(self, message, code=0):
        super().__init__(message)
        self.code = code


class Tensor:
    def __init__(self, name, values):
        self.name, self._values = name, values

    def as_numpy(self):
        return self._values


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        self.output_tensors, self.error = list(output_tensors), error

    def numbers(self):
        assert self.error is None, self.error
        return self.output_tensors[0].as_numpy()


class Request:
    def __init__(self, **tensors):
        self.tensors = tensors


def get_input_tensor_by_name(request, name):
    return Tensor(name, request.tensors[name])


@pytest.fixture
def triton_utils(monkeypatch):
    """The module, in the place where a model imports it."""
    module = ModuleType("triton_python_backend_utils")
    for item in (TritonModelException, TritonError, Tensor, InferenceResponse, get_input_tensor_by_name):
        setattr(module, item.__name__, item)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module
    for name in ("decoder", "backend"):
        sys.modules.pop(f"tlopt.deployment.serving.inside.{name}", None)
