import subprocess
import sys

import pytest

from tlopt import registry
from tlopt.errors import MissingLibraryError, PluginError


def test_names_are_the_files_of_the_folder():
    assert registry.names("backends") == ("onnxruntime", "openvino", "tensorrt", "torch")
    assert "magnitude" in registry.names("criteria")


def test_names_import_nothing_heavy():
    code = "import sys; from tlopt import registry; [registry.names(g) for g in registry.GROUPS]; "
    code += "assert not {'torch', 'onnx', 'numpy'} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_plugin_gets_its_close_match():
    with pytest.raises(PluginError, match="Unknown backend: 'onnxruntim'") as caught:
        registry.load("backends", "onnxruntim")
    assert caught.value.hint == "Did you mean 'onnxruntime'?"


def test_a_missing_library_names_what_to_install(monkeypatch):
    for name in [m for m in sys.modules if m.partition(".")[0] == "openvino" or m == "tlopt.backends.openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingLibraryError, match="needs openvino, which is not installed") as caught:
        registry.load("backends", "openvino")
    assert "tlopt[cpu]" in caught.value.hint


def test_a_library_that_is_wanted_itself_is_named_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingLibraryError) as caught:
        registry.require("mlperf_loadgen")
    assert caught.value.message == "The package mlperf_loadgen is not installed."
