# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs a source folder into one tar.gz: the same tree is the same bytes, whoever packs it and when.

Owners, times and umasks are levelled; what git ignores stays at home.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

#: Left out when the folder is no git checkout.
SKIPPED_NAMES = frozenset(
    {".git", "__pycache__", ".venv", "venv", "node_modules", ".mypy_cache", ".pytest_cache"}
)
#: MiB of source after which something that is no source is surely among it.
MAX_MIB = 512
#: One time for all files: 2020-01-01. The release gives its files their real times when it unpacks them.
_MTIME = 1577836800


class SourceError(ValueError):
    """One line that says which file or folder is wrong, and what to do."""


@dataclass(frozen=True)
class SourceArchive:
    """A packed source folder; ``size`` is what it takes unpacked, in bytes."""

    path: Path
    sha256: str
    files: int
    size: int


def pack(folder: Path, target: Path) -> SourceArchive:
    """Write ``folder`` as ``target`` (tar.gz) and say what it holds."""
    names = source_files(folder)
    if not names:
        raise SourceError(f"{folder} holds no files that could be deployed")
    size = _total_size(folder, names)
    with target.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as zipped:
        with tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                _add(tar, folder, name)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    return SourceArchive(target, digest, len(names), size)


def source_files(folder: Path) -> list[str]:
    """Names of the files and links to deploy, relative to ``folder`` and sorted."""
    names = _git_files(folder)
    if not names:
        names = _walk(folder)
    return sorted(name for name in names if _is_packable(folder / name))


def _is_packable(path: Path) -> bool:
    """Files and links; a socket, a pipe or a file that was deleted but not yet committed is left out."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _git_files(folder: Path) -> list[str]:
    """What git tracks or would track; empty where there is no git or no checkout."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        # A GIT_DIR of the caller (a hook, for one) would answer for another checkout.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        answer = subprocess.run(command, capture_output=True, check=True, env=environment)
    except (OSError, subprocess.CalledProcessError):
        return []
    names: list[str] = []
    for name in set(os.fsdecode(answer.stdout).split("\0")) - {""}:
        inner = folder / name
        if inner.is_dir() and not inner.is_symlink():  # a submodule, or a checkout inside this one
            names += [f"{name.rstrip('/')}/{below}" for below in source_files(inner)]
        else:
            names.append(name)
    return names


def _walk(folder: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder):
        below = Path(parent).relative_to(folder)
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in SKIPPED_NAMES and name not in links]
        kept = (name for name in [*files, *links] if name not in SKIPPED_NAMES and not name.endswith(".pyc"))
        names += [(below / name).as_posix() for name in kept]
    return names


def _total_size(folder: Path, names: list[str]) -> int:
    sizes: dict[str, int] = {}
    for name in names:
        top = name.split("/", 1)[0]
        sizes[top] = sizes.get(top, 0) + (folder / name).lstat().st_size
    total = sum(sizes.values())
    if total > MAX_MIB * 2**20:
        largest = max(sizes, key=lambda top: sizes[top])
        raise SourceError(
            f"{folder} holds {total // 2**20} MiB, at most {MAX_MIB} MiB are sent: "
            f"{largest} alone has {sizes[largest] // 2**20} MiB; add it to .gitignore if it is no source"
        )
    return total


def _add(tar: tarfile.TarFile, folder: Path, name: str) -> None:
    path = folder / name
    info = tarfile.TarInfo(name)
    info.mtime = _MTIME
    if path.is_symlink():
        link = str(path.readlink())
        aim = os.path.normpath(os.path.join(os.path.dirname(name), link))  # noqa: PTH118, PTH120
        if Path(link).is_absolute() or aim.split("/")[0] == "..":
            raise SourceError(
                f"{path} is a link out of the source ({link}): it would point nowhere on the host"
            )
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, link, 0o777
        tar.addfile(info)
        return
    with path.open("rb") as content:
        info.size = os.fstat(content.fileno()).st_size
        info.mode = 0o755 if os.fstat(content.fileno()).st_mode & stat.S_IXUSR else 0o644
        tar.addfile(info, content)
