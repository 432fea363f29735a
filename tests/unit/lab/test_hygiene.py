"""What must not slip into the tree is found, and what only looks like it is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab import hygiene


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("index = https://py" + "pi.org/simple", "registry"),
        ("deb http://deb." + "debian.org/debian bookworm main", "registry"),
        ("FROM gh" + "cr.io/someone/image", "registry"),
        ("path = '/wo" + "rk/main'", "path"),
        ("cd /ho" + "me/alice/farrier", "path"),
        ("see /ro" + "ot/farrier", "path"),
        ("-----BEGIN OPENSSH " + "PRIVATE KEY-----", "private key"),
    ],
)
def test_it_is_found(line: str, fault: str) -> None:
    (found,) = hygiene.faults(f"clean\n{line}\n")
    assert found[0] == 2
    assert fault in found[1]


@pytest.mark.parametrize(
    "line",
    [
        "/health/worker",
        "a network/home/page",
        "https://example.org/work/x",
        "/root/.ssh on the host",
        "~/work/x",
    ],
)
def test_it_is_not_taken_for_one(line: str) -> None:
    assert hygiene.faults(line) == []


def test_files_that_git_would_add_are_read_and_ignored_ones_are_not(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("built/\n")
    (tmp_path / "built").mkdir()
    for name in ("new.txt", "built/out.txt"):
        (tmp_path / name).write_text("https://py" + "pi.org\n")
    assert hygiene.findings(tmp_path) == ["new.txt:1: names a package registry"]
