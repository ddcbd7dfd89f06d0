"""Which settings a tuning chooses: here a formula stands in for the server that would be loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tlopt.deployment.job import Job
from tlopt.deployment.triton import tuning
from tlopt.errors import CheckError


@pytest.fixture
def job(exported) -> Job:
    return Job(
        artifacts=(exported,), target="triton", name="tiny", backend="onnxruntime", input="pixels", max_batch=16,
        tune_latency_ms=20,
    )  # fmt: skip


@pytest.fixture
def measured(monkeypatch):
    """Measures by a formula: two instances, batches of 4 and a wait of 2 ms are best; with one, nothing is in time."""
    tried = []

    def measure(job, settings, *_):
        tried.append(settings)
        good = 100.0 * settings.instances / (1 + abs(settings.max_batch - 4)) / (1 + abs(settings.max_delay_ms - 2))
        in_time = settings.instances > 1
        return tuning.Measured(
            settings=settings, callers=8, per_s=good if in_time else 0.0, p99_ms=10.0 if in_time else 30.0
        )

    monkeypatch.setattr(tuning, "_measure", measure)
    monkeypatch.setattr(tuning, "cores", lambda: 4)
    return tried


def test_each_setting_is_changed_until_it_helps_no_more(job, measured, tmp_path):
    settings, said = tuning.tune(job, tmp_path, None)
    assert (settings.instances, settings.threads) == (4, 1)
    assert (settings.max_batch, settings.max_delay_ms) == (4, 2.0)
    assert "400 images a second with 8 clients" in said
    assert len(measured) == len(set(measured)), "measured twice"


def test_what_the_user_has_set_stays(job, measured, tmp_path):
    fixed = replace(job, instances=2, threads=3, max_delay_ms=1.0, max_batch=8)
    settings, _ = tuning.tune(fixed, tmp_path, None)
    assert (settings.instances, settings.threads, settings.max_delay_ms) == (2, 3, 1.0)
    assert settings.max_batch == 4
    assert all(one.max_batch <= 8 for one in measured)


def test_a_latency_that_nothing_keeps_is_an_error_with_what_was_reached(job, measured, tmp_path):
    with pytest.raises(CheckError, match="within 20 ms here: one client alone waits 30 ms"):
        tuning.tune(replace(job, instances=1), tmp_path, None)


def test_a_gain_within_the_noise_changes_nothing(job, monkeypatch, tmp_path):
    def measure(job, settings, *_):
        per_s = 102.0 if settings.instances == 2 else 100.0
        return tuning.Measured(settings=settings, callers=1, per_s=per_s, p99_ms=5.0)

    monkeypatch.setattr(tuning, "_measure", measure)
    settings, _ = tuning.tune(job, tmp_path, None)
    assert settings.instances == 1
    assert settings.max_batch == 16
