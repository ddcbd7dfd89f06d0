"""What `show` says of an artifact: its steps in a narrow table, and the settings that were changed below it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from calling import called

from tlopt.artifact import Artifact
from tlopt.show import show


def test_only_settings_that_differ_from_their_defaults_are_shown(exported):
    notes = show(exported).notes
    (tuned,) = (note for note in notes if note.startswith("Step 1, finetune: "))
    assert "model=tiny_models:cnn" in tuned
    assert "epochs=2" in tuned
    assert "optimizer" not in tuned
    assert "seed" not in tuned
    assert "Step 2, export: all settings are the defaults" in notes


def test_every_setting_is_shown_if_asked_for(exported):
    notes = show(exported, all_=True).notes
    (tuned,) = (note for note in notes if note.startswith("Step 1, finetune: "))
    assert "optimizer=adamw" in tuned
    assert "resume=off" in tuned
    assert "Step 2, export: input=float32, opset=18" in notes


def test_no_line_is_wider_than_eighty_characters(exported, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for option in ([], ["--all"]):
        code, out, _ = called(capsys, "show", exported.path, *option)
        assert code == 0
        assert all(len(line) <= 80 or " " not in line.strip() for line in out.splitlines())


def weights_of(artifact: Artifact, **metrics: object) -> list[str]:
    """Return what `show` says of the weights if the training had these metrics."""
    details = replace(artifact.card.torch, metrics={**artifact.card.torch.metrics, **metrics})
    told = replace(artifact, card=replace(artifact.card, details=details))
    return [note for note in show(told).notes if "eights: " in note]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"fine_tuned_share": 1.0}, []),
        ({"fine_tuned_share": 0.0, "method": "head"}, []),
        ({"fine_tuned_share": "?"}, []),
        ({"fine_tuned_share": 0.75}, ["Weights: 75% fine-tuned, 25% from the start of the training"]),
        ({"fine_tuned_share": 0.0}, ["Weights: those from the start of the training, which did better on validation"]),
        (
            {"fine_tuned_share": 1.0, "soup": {"trainings": 3, "used": [3, 1], "losses": [0.4, 0.3, 0.5]}},
            ["Mean of weights: of 3 trainings, these took part: 1, 3"],
        ),
    ],
)
def test_what_the_weights_are_a_mean_of_is_told(tuned, metrics, expected):
    assert weights_of(tuned, **metrics) == expected
