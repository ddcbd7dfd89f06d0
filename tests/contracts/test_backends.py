"""What every backend must do; a new file in tlopt/backends is tested without a change here."""

from __future__ import annotations

import numpy as np
import pytest

from tlopt import registry
from tlopt.backends import load, open_runner
from tlopt.errors import ArtifactError, MissingLibraryError, PluginError, StageError, TloptError

BACKENDS = registry.names("backends")


def module(name: str):
    try:
        return load(name)
    except MissingLibraryError as error:
        pytest.skip(error.message)


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    module(request.param)
    return request.param


@pytest.fixture
def artifact(backend, tuned, exported):
    """An artifact that the backend reads and can run here."""
    kinds = module(backend).READS
    if reason := module(backend).problem():
        pytest.skip(reason)
    return next(one for one in (tuned, exported) if one.card.kind in kinds)


@pytest.fixture
def inputs(tuned, photos) -> np.ndarray:
    files = sorted(photos.rglob("*.png"))[::8]
    return np.stack([tuned.card.preprocess(file) for file in files])


def test_it_says_what_it_reads_and_where_it_runs(backend):
    assert set(module(backend).READS) <= {"torch", "onnx", "tensorrt"}
    assert module(backend).DEVICES


def test_each_device_either_runs_or_says_why_not(backend):
    for device in module(backend).DEVICES:
        reason = module(backend).problem(device)
        assert isinstance(reason, str)
        assert reason == reason.strip()


def test_an_unknown_device_is_refused_with_the_known_ones(backend):
    with pytest.raises(PluginError, match=f"The backend {backend} has no device 'toaster'"):
        load(backend, "toaster")


def test_no_images_have_no_logits(artifact, backend, inputs):
    with open_runner(artifact, backend) as runner:
        logits = runner(inputs[:0])
    assert (logits.shape, logits.dtype) == ((0, len(artifact.card.classes)), np.float32)


def test_the_logits_are_float32_one_row_per_image(artifact, backend, inputs):
    with open_runner(artifact, backend) as runner:
        logits = runner(inputs)
    assert logits.dtype == np.float32
    assert logits.shape == (len(inputs), len(artifact.card.classes))


def test_batches_of_any_size_give_the_same_answers(artifact, backend, inputs):
    with open_runner(artifact, backend) as runner:
        together = runner(inputs)
        singly = np.concatenate([runner(inputs[i : i + 1]) for i in range(len(inputs))])
    # fp32 sums in another order: a few units in the last place of logits around 10.
    np.testing.assert_allclose(together, singly, atol=1e-4)


def test_earlier_results_are_not_overwritten_by_later_calls(artifact, backend, inputs):
    with open_runner(artifact, backend) as runner:
        first = runner(inputs[:1])
        kept = first.copy()
        runner(inputs[1:2])
    np.testing.assert_array_equal(first, kept)


def test_inputs_are_left_as_they_were(artifact, backend, inputs):
    before = inputs.copy()
    with open_runner(artifact, backend) as runner:
        runner(inputs)
    np.testing.assert_array_equal(inputs, before)


def test_the_conditions_name_threads_and_version(artifact, backend):
    with open_runner(artifact, backend, threads=1) as runner:
        assert runner.name.startswith(f"{backend}:")
        assert runner.conditions["threads"] == 1
        assert any(str(value)[0].isdigit() for key, value in runner.conditions.items() if key == backend)


def test_an_artifact_of_another_kind_is_refused(backend, tuned, exported):
    for artifact in (tuned, exported):
        if artifact.card.kind not in module(backend).READS:
            with pytest.raises(ArtifactError, match=f"is of kind {artifact.card.kind}"):
                open_runner(artifact, backend)


def test_a_device_that_cannot_run_is_an_error_and_never_a_silent_fall_back(backend, tuned, exported):
    known = module(backend)
    for device in known.DEVICES:
        artifact = next((one for one in (tuned, exported) if one.card.kind in known.READS), None)
        if artifact is None or not known.problem(device):
            continue
        with pytest.raises(TloptError) as caught:
            open_runner(artifact, f"{backend}:{device}")
        assert isinstance(caught.value, StageError | MissingLibraryError)


def test_all_backends_agree_on_one_network(tuned, exported, inputs):
    answers = {}
    for name in BACKENDS:
        try:
            known = load(name)
        except MissingLibraryError:
            continue
        artifact = next((one for one in (tuned, exported) if one.card.kind in known.READS), None)
        if artifact is not None and not known.problem():
            with open_runner(artifact, name) as runner:
                answers[name] = runner(inputs)
    assert len(answers) >= 2
    reference = answers.pop("torch")
    for name, logits in answers.items():
        # fp32 against fp32 through another library: fused and reordered sums.
        np.testing.assert_allclose(logits, reference, atol=1e-3, err_msg=name)
