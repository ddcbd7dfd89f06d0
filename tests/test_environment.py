import sys
from types import SimpleNamespace

from tlopt import environment


def test_the_gpu_is_named_as_soon_as_torch_has_computed_on_it(monkeypatch):
    used = []
    cuda = SimpleNamespace(is_initialized=lambda: bool(used), get_device_name=lambda: "NVIDIA L4")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert environment.computed_on() == environment.processor()
    used.append("now")
    assert environment.computed_on() == "NVIDIA L4"
