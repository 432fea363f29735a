"""What a source says about its dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from farrier.errors import FarrierError
from farrier.release import lockfile, poetry, python
from farrier.release.spec import Spec

SPEC = Spec.from_mapping({"name": "a", "app": "m:app", "source": {"type": "requirement", "requirement": "x"}})


def interpreter() -> python.Python:
    return python.find(sys.executable)


def test_includes_hashes_and_comments_become_one_flat_list(tmp_path: Path) -> None:
    (tmp_path / "base.txt").write_text("flask==3.1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n")
    (tmp_path / "c.txt").write_text("")
    text = "# all\n-r base.txt\n-c c.txt\nDjango>=5 ; python_version > '3.9'  # why\n"
    (tmp_path / "requirements.txt").write_text(text)
    lines = list(lockfile.flatten(tmp_path / "requirements.txt"))
    assert lines[0].split() == ["flask==3.1.0", "--hash=sha256:aa", "--hash=sha256:bb"]
    assert lines[1:] == [f"-c {tmp_path}/c.txt", "Django>=5 ; python_version > '3.9'"]
    assert lockfile.pinned(lines, "flask") == "3.1.0"
    assert lockfile.frameworks(lines) is None
    assert lockfile.frameworks(lines[1:]) == "django"


def test_a_file_that_includes_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("-r requirements.txt\nflask\n")
    assert list(lockfile.flatten(tmp_path / "requirements.txt")) == ["flask"]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["uv.lock", "poetry.lock", "pyproject.toml"], "uv.lock"),
        (["poetry.lock", "requirements.txt", "pyproject.toml"], "poetry.lock"),
        (["requirements.txt", "pyproject.toml"], "requirements.txt"),
        (["pyproject.toml"], "pyproject.toml"),
        ([], "none"),
    ],
)
def test_the_strictest_lock_is_found(tmp_path: Path, names: list[str], kind: str) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    assert lockfile.find(SPEC, tmp_path, interpreter()).kind == kind


@pytest.mark.parametrize(
    ("text", "installs"),
    [
        ("[build-system]\nrequires = ['hatchling']\n", True),
        ("[project]\nname = 'x'\n", False),
        ("[build-system]\nrequires=['poetry-core']\n[tool.poetry]\npackage-mode = false\n", False),
        ("[build-system]\nrequires=['hatchling']\n[tool.uv]\npackage = false\n", False),
    ],
)
def test_a_project_is_installed_if_it_says_how(tmp_path: Path, text: str, installs: bool) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert lockfile.find(SPEC, tmp_path, interpreter()).installs_project is installs


def test_a_gunicorn_that_farrier_cannot_drive_is_told_in_one_line(tmp_path: Path) -> None:
    lock = lockfile.Lock("uv.lock", tmp_path / "uv.lock", tmp_path, False)
    lockfile.refuse_gunicorn("27.0.1", lock)
    lockfile.refuse_gunicorn(None, lock)
    with pytest.raises(FarrierError, match=r"uv.lock pins gunicorn 23.0.0; farrier drives 27.x: lock"):
        lockfile.refuse_gunicorn("23.0.0", lock)


PYPROJECT = """\
[tool.poetry]
name = "shop"
version = "1"
[tool.poetry.dependencies]
python = "^3.10"
flask = "^3"
uvicorn = {version = "*", extras = ["standard"]}
tests = {version = "*", optional = true}
winonly = {version = "*", markers = "sys_platform == 'win32'"}
[tool.poetry.group.dev.dependencies]
pytest = "*"
"""
POETRY_LOCK = """\
[[package]]
name = "flask"
version = "3.1.0"
optional = false
files = [{file = "f.whl", hash = "sha256:aa"}, {file = "f.tar.gz", hash = "sha256:ab"}]
[package.dependencies]
Werkzeug = ">=3"
importlib_metadata = {version = ">=3", markers = "python_version < '3.8'"}
[[package]]
name = "importlib-metadata"
version = "1"
files = []
[[package]]
name = "pytest"
version = "8"
files = []
[[package]]
name = "tests"
version = "1"
files = []
[[package]]
name = "winonly"
version = "1"
files = []
[[package]]
name = "uvicorn"
version = "0.30"
files = [{file = "u.whl", hash = "sha256:ba"}]
[package.dependencies]
httptools = {version = ">=0.5", optional = true, markers = "extra == \\"standard\\""}
unasked = {version = "*", optional = true, markers = "extra == \\"other\\""}
[package.extras]
standard = ["httptools (>=0.5)"]
other = ["unasked"]
[[package]]
name = "httptools"
version = "0.6"
files = [{file = "h.whl", hash = "sha256:ca"}]
[[package]]
name = "unasked"
version = "1"
files = []
[[package]]
name = "werkzeug"
version = "3.1"
files = [{file = "w.whl", hash = "sha256:da"}]
[metadata]
lock-version = "2.0"
"""


def test_a_poetry_lock_is_exported_as_it_applies_here(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "poetry.lock").write_text(POETRY_LOCK)
    lock = lockfile.find(SPEC, tmp_path, interpreter())
    assert lockfile.from_poetry(lock, interpreter()).splitlines() == [
        "flask==3.1.0 --hash=sha256:aa --hash=sha256:ab",
        "httptools==0.6 --hash=sha256:ca",
        "uvicorn==0.30 --hash=sha256:ba",
        "werkzeug==3.1 --hash=sha256:da",
    ]


def test_the_poetry_reader_needs_nothing_but_an_interpreter(tmp_path: Path) -> None:
    """It runs by itself, outside any environment, as on a host that has no packages at all."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "poetry.lock").write_text(POETRY_LOCK)
    shutil.copy(poetry.__file__, tmp_path / "reader.py")
    base = getattr(sys, "_base_executable", sys.executable)
    done = subprocess.run(
        [base, "-I", str(tmp_path / "reader.py"), "export", str(tmp_path)], capture_output=True, text=True
    )
    assert "werkzeug==3.1" in done.stdout, done.stderr
