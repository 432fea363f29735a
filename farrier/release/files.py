"""Writing files so that a reader sees the old or the new one, and a failed deploy leaves the old one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class File:
    """A file as it is wanted. ``secret`` ones are shown with their values masked."""

    path: Path
    text: str
    mode: int = 0o644
    group: int = 0
    secret: bool = False

    def is_there(self) -> bool:
        try:
            found = self.path.stat()
            same = self.path.read_text(encoding="utf-8") == self.text
        except (OSError, UnicodeDecodeError):
            return False
        return same and found.st_mode & 0o7777 == self.mode and found.st_gid == self.group


def write(path: Path, text: str, mode: int = 0o644, group: int = 0) -> None:
    """Writes `path` whole or not at all: a sibling, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sibling = path.with_name(f".{path.name}.new")
    descriptor = os.open(sibling, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fchown(stream.fileno(), 0, group)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        sibling.replace(path)
    except OSError:
        # A full disk must not leave the sibling behind as well.
        sibling.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, data: Any, mode: int = 0o644, group: int = 0) -> None:
    write(path, dump(data), mode, group)


def dump(data: Any) -> str:
    """JSON as we keep it: sorted, indented, one value a line, so that a diff is readable."""
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`, or None where there is none (or half a one)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def link(path: Path, target: str) -> None:
    """Makes `path` a symlink to `target`, renamed into place."""
    with contextlib.suppress(OSError):
        if str(path.readlink()) == target:
            return
    sibling = path.with_name(f".{path.name}.new")
    sibling.unlink(missing_ok=True)
    sibling.symlink_to(target)
    sibling.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Removes a file, a link or a whole tree; what is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


class Undo:
    """Remembers, on disk, how files and links were before a run, until the run is good or is undone.

    A killed run leaves the folder; the next run restores from it before it does anything else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "index.json"

    @property
    def pending(self) -> bool:
        return self.index.exists()

    def remember(self, path: Path) -> None:
        """Keeps what `path` is now; only the first time in a run."""
        entries: dict[str, Any] = read_json(self.index) or {}
        if str(path) in entries:
            return
        entry: dict[str, Any] = {"kind": "absent"}
        if path.is_symlink():
            entry = {"kind": "link", "target": str(path.readlink())}
        elif path.exists():
            found = path.stat()
            copy = self.folder / str(len(entries))
            write(copy, path.read_text(encoding="utf-8"), 0o600)
            entry = {"kind": "file", "copy": copy.name, "mode": found.st_mode & 0o7777, "group": found.st_gid}
        entries[str(path)] = entry
        write_json(self.index, entries, 0o600)

    def write(self, file: File) -> bool:
        """Writes `file` if it differs; True if it did."""
        if file.is_there():
            return False
        self.remember(file.path)
        write(file.path, file.text, file.mode, file.group)
        return True

    def link(self, path: Path, target: str) -> bool:
        if path.is_symlink() and str(path.readlink()) == target:
            return False
        self.remember(path)
        link(path, target)
        return True

    def delete(self, path: Path) -> bool:
        if not path.is_symlink() and not path.exists():
            return False
        self.remember(path)
        delete(path)
        return True

    def restore(self) -> list[Path]:
        """Puts everything back and forgets it; answers what was put back."""
        entries: dict[str, Any] = read_json(self.index) or {}
        for name, entry in entries.items():
            path = Path(name)
            if entry["kind"] == "absent":
                delete(path)
                _remove_empty(path.parent)
            elif entry["kind"] == "link":
                link(path, entry["target"])
            else:
                copy = (self.folder / entry["copy"]).read_text(encoding="utf-8")
                write(path, copy, entry["mode"], entry["group"])
        self.forget()
        return [Path(name) for name in entries]

    def forget(self) -> None:
        # The index first: without it the copies mean nothing.
        self.index.unlink(missing_ok=True)
        delete(self.folder)


def _remove_empty(folder: Path) -> None:
    """Removes a folder that we made for a file and that is empty again (a unit's drop-in folder)."""
    if folder.name.endswith(".d"):
        with contextlib.suppress(OSError):
            folder.rmdir()


def tree_bytes(paths: Iterable[Path]) -> int:
    """Bytes on disk of some trees, links not followed."""
    total = 0
    for path in paths:
        for folder, _, names in os.walk(path):
            for name in names:
                with contextlib.suppress(OSError):
                    total += Path(folder, name).lstat().st_blocks * 512
    return total
