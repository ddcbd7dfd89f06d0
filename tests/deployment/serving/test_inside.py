"""What runs in the server's environment."""

from __future__ import annotations

import ast

import pytest

from tlopt.deployment.serving.environment import INSIDE

# What is installed there, beside the standard library and the files of the folder.
THERE = {"google", "numpy", "onnxruntime", "openvino", "triton_python_backend_utils", "tritonclient", "messages"}


@pytest.mark.parametrize("file", sorted(INSIDE.glob("*.py")), ids=lambda file: file.name)
def test_a_file_needs_nothing_of_tlopt(file):
    import sys

    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    assert names <= THERE | set(sys.stdlib_module_names)
