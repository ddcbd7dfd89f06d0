from pathlib import Path

import pytest

from tlopt.errors import SettingError
from tlopt.images.cache import Cache, default_cache


def test_the_cache_lies_in_the_folder_of_caches_or_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "tlopt"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for relative in ("", "cache", "~/.cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert default_cache() == tmp_path / "home" / ".cache" / "tlopt"


def test_a_user_without_a_home_is_told_what_helps(tmp_path, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(SettingError, match="no home folder") as caught:
        Cache().folder  # noqa: B018
    assert "--cache-dir" in caught.value.hint
    assert Cache(cache_dir=tmp_path).folder == tmp_path
