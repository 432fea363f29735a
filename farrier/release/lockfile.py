"""What an app's source says about its dependencies, turned into one flat list for any installer.

uv.lock, poetry.lock, requirements.txt (with hashes, includes and constraints) and pyproject.toml, in
this order when nobody names one.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FarrierError
from . import poetry
from .python import Python
from .spec import Spec

NAMES = ("uv.lock", "poetry.lock", "requirements.txt", "pyproject.toml")
GUNICORN_MAJOR = 27
FRAMEWORKS = ("django", "fastapi", "flask")
_NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True)
class Lock:
    """The file that says what to install; ``kind`` is its standard name, or ``none``."""

    kind: str
    path: Path
    project: Path
    installs_project: bool

    @property
    def label(self) -> str:
        return self.path.name if self.kind != "none" else "no lock"


def find(spec: Spec, src: Path, python: Python) -> Lock:
    """The lock of a fetched source. Raises FarrierError where a named file is not there."""
    if spec.requirements:
        path = src / spec.requirements
        if not path.is_file():
            raise FarrierError(f"requirements: given {spec.requirements}, which the source does not have")
        kind = path.name if path.name in NAMES else "requirements.txt"
        return Lock(kind, path, path.parent, _has_build_system(path.parent, python))
    folders = [src / spec.chdir, src] if spec.chdir else [src]
    for folder in folders:
        for name in NAMES:
            if (folder / name).is_file():
                return Lock(name, folder / name, folder, _has_build_system(folder, python))
    return Lock("none", src, src, False)


def _has_build_system(project: Path, python: Python) -> bool:
    """True if the project says how it is built, and does not say that it is none (poetry, uv)."""
    if not (project / "pyproject.toml").is_file():
        return False
    data = read_toml(project / "pyproject.toml", python)
    tool = data.get("tool", {})
    packaged = tool.get("poetry", {}).get("package-mode", True) and tool.get("uv", {}).get("package", True)
    return "build-system" in data and bool(packaged)


def read_toml(path: Path, python: Python) -> dict[str, Any]:
    """A TOML file, read by the app's own interpreter: the host's may be too old to have tomllib."""
    source = inspect.getsource(poetry)
    done = subprocess.run(
        [python.path, "-Ic", source, "toml", str(path)], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it cannot be read"])[-1]
        raise FarrierError(f"requirements: {path.name}: {last}")
    data = json.loads(done.stdout)
    return data if isinstance(data, dict) else {}


def from_poetry(lock: Lock, python: Python) -> str:
    """poetry.lock as requirements with hashes, for the app's interpreter on this machine."""
    source = inspect.getsource(poetry)
    done = subprocess.run(
        [python.path, "-Ic", source, "export", str(lock.project)], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it cannot be read"])[-1]
        raise FarrierError(f"requirements: poetry.lock: {last}")
    return done.stdout


def flatten(path: Path, seen: frozenset[Path] = frozenset()) -> Iterator[str]:
    """The logical lines of a requirements file, its includes in their place, comments gone."""
    if path in seen:
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FarrierError(f"requirements: {path.name} cannot be read: {error}") from None
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if match := re.match(r"(-r|--requirement)[ =]?\s*(\S+)$", line):
            yield from flatten(path.parent / match[2], seen | {path})
        elif match := re.match(r"(-c|--constraint)[ =]?\s*(\S+)$", line):
            yield f"-c {path.parent / match[2]}"
        elif line:
            yield line


def name_of(line: str) -> str:
    """The normalised project name of a requirement line (PEP 503), or empty for an option."""
    match = _NAME.match(line)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match and not line.startswith("-") else ""


def without(lines: list[str], *names: str) -> list[str]:
    return [line for line in lines if name_of(line) not in names]


def pinned(lines: list[str], name: str) -> str | None:
    """The version to which `name` is pinned, if it is."""
    for line in lines:
        if name_of(line) == name:
            match = re.search(r"={2,3}\s*([0-9][^\s;,]*)", line)
            return match[1] if match else None
    return None


def refuse_gunicorn(version: str | None, lock: Lock) -> None:
    """Raises FarrierError if the lock holds a Gunicorn that farrier cannot drive."""
    if version is None or version.split(".")[0] == str(GUNICORN_MAJOR):
        return
    raise FarrierError(
        f"{lock.label} pins gunicorn {version}; farrier drives {GUNICORN_MAJOR}.x: lock gunicorn "
        f">={GUNICORN_MAJOR},<{GUNICORN_MAJOR + 1}, or set override_gunicorn: true to install that over it"
    )


def frameworks(lines: list[str]) -> str | None:
    """The web framework among the requirements, if exactly one is there."""
    found = [name for name in FRAMEWORKS if any(name_of(line) == name for line in lines)]
    return found[0] if len(found) == 1 else None
