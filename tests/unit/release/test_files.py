"""Files are written whole, and a run that fails puts back what it changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from farrier.release import files
from farrier.release.files import File, Undo


def test_a_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "state.json"
    files.write(target, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_undo_restores_files_links_and_absence(tmp_path: Path) -> None:
    kept, linked, fresh = tmp_path / "kept", tmp_path / "linked", tmp_path / "x.socket.d" / "active.conf"
    files.write(kept, "before", 0o640)
    linked.symlink_to("a")
    undo = Undo(tmp_path / "undo")
    undo.write(File(kept, "after"))
    undo.write(File(kept, "after that"))
    undo.link(linked, "b")
    undo.write(File(fresh, "new"))
    # A killed run: another process finds the record on disk.
    again = Undo(tmp_path / "undo")
    assert again.pending
    again.restore()
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("before", 0o640)
    assert str(linked.readlink()) == "a"
    assert not fresh.parent.exists()
    assert not again.pending


def test_a_forgotten_run_stays_as_it_is(tmp_path: Path) -> None:
    undo = Undo(tmp_path / "undo")
    undo.write(File(tmp_path / "a", "new"))
    undo.forget()
    assert undo.restore() == []
    assert (tmp_path / "a").read_text() == "new"


def test_a_file_that_is_as_wanted_is_not_written(tmp_path: Path) -> None:
    undo = Undo(tmp_path / "undo")
    wanted = File(tmp_path / "a", "text", 0o600)
    assert undo.write(wanted)
    undo.forget()
    assert not undo.write(wanted)
    assert not undo.pending
