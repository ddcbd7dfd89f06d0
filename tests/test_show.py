"""What `show` says of an artifact: its steps in a narrow table, and the settings that were changed below it."""

from __future__ import annotations

from calling import called

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
