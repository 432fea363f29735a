"""The examples' locks: exact, hashed, without an address, and in step with what they were locked from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
LOCKS = sorted(EXAMPLES.glob("*/requirements.txt"))
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]


def requirements(lock: Path) -> list[str]:
    """Each requirement with its marker and hashes, comments dropped."""
    lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
    return re.split(r"\s+(?=[a-z0-9._-]+==)", " ".join(lines).replace("\\", " ").strip())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.parent.name)
def test_every_requirement_is_exact_and_hashed(lock: Path) -> None:
    found = requirements(lock)
    assert len(found) > 5
    for requirement in found:
        assert re.match(r"[a-z0-9._-]+==[\w.]+ ", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.parent.name)
def test_no_lock_holds_an_address(lock: Path) -> None:
    assert not re.search(r"://|--(extra-)?index-url|--find-links", lock.read_text())


def wanted(folder: Path) -> list[str]:
    if (folder / "requirements.in").exists():
        return (folder / "requirements.in").read_text().split()
    if tomllib is None:
        pytest.skip("tomllib came with Python 3.11")
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]["dependencies"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.parent.name)
def test_everything_asked_for_is_locked(lock: Path) -> None:
    names = {requirement.partition("==")[0] for requirement in requirements(lock)}
    asked = {re.split(r"[\[<>=~!]", line)[0].lower() for line in wanted(lock.parent)}
    assert asked <= names


def test_each_example_has_a_lock_and_a_page() -> None:
    folders = {
        path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))
    }
    assert folders == {lock.parent.name for lock in LOCKS} == {"django_app", "fastapi_app", "flask_app"}
    assert all((EXAMPLES / folder / "README.md").exists() for folder in folders)
