"""Two clones never share what they make."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import checkout


def test_identity_follows_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = checkout.identity()
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    assert checkout.identity() != here
    assert len(here) == 8


def test_cache_is_where_farrier_cache_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FARRIER_CACHE", str(tmp_path / "elsewhere"))
    assert checkout.cache_dir() == tmp_path / "elsewhere"
    assert checkout.cache_dir().is_dir()


def test_cache_else_follows_xdg_and_ignores_a_relative_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FARRIER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert checkout.cache_dir() == tmp_path / "xdg" / "farrier"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkout.cache_dir() == tmp_path / ".cache" / "farrier"


def test_state_is_not_for_others_to_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert checkout.state_dir().stat().st_mode & 0o077 == 0
