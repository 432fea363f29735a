"""The source archive: what goes to a host, and that the same tree is the same bytes."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from ansible_collections.farrier.web.plugins.plugin_utils import archive


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    for name in (
        "main.py",
        "pkg/__init__.py",
        ".venv/bin/python",
        "node_modules/x.js",
        "pkg/__pycache__/a.pyc",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_a_plain_folder_is_sent_without_what_tools_leave_there(app: Path) -> None:
    assert archive.source_files(app) == ["main.py", "pkg/__init__.py"]


def test_what_git_ignores_stays_at_home_and_what_is_not_yet_committed_goes(app: Path) -> None:
    (app / ".gitignore").write_text("*.log\n.venv\nnode_modules\n__pycache__\nsecret.env\n")
    _git(app, "init", "-q")
    _git(app, "add", "main.py", "pkg", ".gitignore")
    _git(app, "commit", "-qm", "x")
    (app / "secret.env").write_text("PASSWORD=1")
    (app / "new.py").write_text("")
    (app / "main.py").unlink()
    assert archive.source_files(app) == [".gitignore", "new.py", "pkg/__init__.py"]


def test_a_folder_that_an_outer_checkout_ignores_is_still_sent(app: Path) -> None:
    (app.parent / ".gitignore").write_text("app\n")
    _git(app.parent, "init", "-q")
    assert archive.source_files(app) == ["main.py", "pkg/__init__.py"]


def test_a_hooks_git_dir_does_not_answer_for_another_checkout(
    app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    _git_free = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", "init", "-q", str(app)], check=True, env=_git_free)
    (app / ".gitignore").write_text("main.py\n")
    assert "main.py" not in archive.source_files(app)


def test_the_same_tree_is_the_same_bytes_whoever_packs_it_and_when(app: Path, tmp_path: Path) -> None:
    first = archive.pack(app, tmp_path / "1.tar.gz")
    os.utime(app / "main.py", (1, 1))
    (app / "main.py").chmod(0o600)
    assert archive.pack(app, tmp_path / "2.tar.gz").sha256 == first.sha256
    (app / "main.py").chmod(0o700)
    executable = archive.pack(app, tmp_path / "3.tar.gz")
    assert executable.sha256 != first.sha256
    (app / "main.py").write_text("changed")
    assert archive.pack(app, tmp_path / "4.tar.gz").sha256 != executable.sha256


def test_links_stay_links_and_files_belong_to_nobody_in_particular(app: Path, tmp_path: Path) -> None:
    (app / "alias.py").symlink_to("main.py")
    (app / "linked").symlink_to("pkg")
    packed = archive.pack(app, tmp_path / "a.tar.gz")
    with tarfile.open(packed.path) as tar:
        entries = {entry.name: entry for entry in tar}
    assert entries["alias.py"].issym() and entries["alias.py"].linkname == "main.py"
    assert entries["linked"].issym() and "linked/__init__.py" not in entries
    assert {(entry.uid, entry.gid, entry.uname) for entry in entries.values()} == {(0, 0, "")}
    assert packed.files == 4


@pytest.mark.parametrize("target", ["/etc/passwd", "../other", "pkg/../../other"])
def test_a_link_out_of_the_source_is_refused_by_its_name(app: Path, tmp_path: Path, target: str) -> None:
    (app / "out").symlink_to(target)
    with pytest.raises(archive.SourceError, match=r"out is a link out of the source"):
        archive.pack(app, tmp_path / "a.tar.gz")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(archive.SourceError, match="no files"):
        archive.pack(tmp_path / "empty", tmp_path / "a.tar.gz")


def test_too_much_is_refused_with_the_folder_that_holds_it(app: Path, tmp_path: Path) -> None:
    (app / "data").mkdir()
    with (app / "data" / "dump.sql").open("wb") as sparse:
        sparse.truncate((archive.MAX_MIB + 10) * 2**20)
    with pytest.raises(archive.SourceError, match=r"data alone has \d+ MiB"):
        archive.pack(app, tmp_path / "a.tar.gz")
