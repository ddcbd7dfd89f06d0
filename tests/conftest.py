"""Fixtures that several folders of tests share."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from tiny_images import write_photos

import tlopt
from tlopt import timing

# The same examples in every run; no verdict hangs on a clock.
settings.register_profile("tlopt", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("tlopt")


_MEMORY = Path("/dev/shm")  # what Linux keeps in memory
_ROOM = 4 << 30  # bytes; all tests together write a tenth of this


def pytest_configure():
    """Have tests write to memory where there is room and programs may run: much of their time is waiting for a disk."""
    with contextlib.suppress(OSError):
        of = os.statvfs(_MEMORY)
        if of.f_bavail * of.f_frsize > _ROOM and not of.f_flag & os.ST_NOEXEC and os.access(_MEMORY, os.W_OK):
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def pytest_collection_modifyitems(items):
    """Run files with slow tests first: at the end of a parallel run only short tests are left to share out."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _alone(tmp_path_factory):
    """Keep caches and settings out of the home folder and apart from tests in other processes, on one thread.

    Tiny networks gain nothing from threads, and two of them wait for each other on a busy machine.
    """
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cache", "config"):
            patch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path_factory.getbasetemp() / name))
        yield


@pytest.fixture(autouse=True, scope="session")
def _few_runs():
    """Time whatever is timed by few runs: how fast it is here is nothing that a test looks at."""
    turn, warm = timing.Alone.turn, timing.warm
    collector = SimpleNamespace(
        collect=lambda: 0, isenabled=gc.isenabled, disable=gc.disable, enable=gc.enable
    )  # looking through all that the tests have loaded takes longer than what is timed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "gc", collector)
        patch.setattr(timing.Alone, "turn", lambda self, runs: turn(self, min(runs, 3)))
        patch.setattr(timing, "warm", lambda call, *, seconds=1.0, **_: warm(call, seconds=min(seconds, 0.02)))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks():
    """Let the system write files when it likes: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _parsed_once():
    """Let the exporter parse the source of its five hundred functions once, not at each call."""
    import torch

    export = torch.onnx.export
    with pytest.MonkeyPatch.context() as patch:

        @functools.cache
        def keep_parsed():
            from onnxscript.values import TracedOnnxFunction

            parsed = functools.cache(TracedOnnxFunction.function_ir.fget)
            patch.setattr(TracedOnnxFunction, "function_ir", property(parsed))

        def exported(*arguments, **options):
            keep_parsed()
            return export(*arguments, **options)

        patch.setattr(torch.onnx, "export", exported)
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of 48 photos in three classes."""
    return write_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="session")
def tuned(photos, tmp_path_factory) -> tlopt.Artifact:
    """A tiny network fine-tuned on the photos."""
    folder = tmp_path_factory.mktemp("tuned")
    return tlopt.finetune(
        photos, folder / "tuned", model="tiny_models:cnn", epochs=2, cache_dir=folder / "cache", seed=0
    )


@pytest.fixture(scope="session")
def exported(tuned, tmp_path_factory) -> tlopt.Artifact:
    """The tiny network as ONNX."""
    return tlopt.export(tuned, tmp_path_factory.mktemp("exported") / "fp32")
