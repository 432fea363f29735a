"""The repository installs in each of its ecosystems: what ships is all that is needed, and nothing else."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> str:
    """A command's output; what it said is in the failure."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def tracked(folder: str, suffix: str = "") -> set[str]:
    """Files that git knows or would add, relative to the root."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder)
    return {name for name in listed.split("\0") if name.endswith(suffix) and (ROOT / name).is_file()} - {""}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(
        BIN / "uv", "build", "--wheel", "--no-build-isolation", "--offline", "--out-dir", out, "--quiet", ROOT
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifact")
    run(BIN / "ansible-galaxy", "collection", "build", "--output-path", out, ROOT)
    (built,) = out.glob("*.tar.gz")
    return built


def test_the_wheel_holds_the_package_and_only_that(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {name for name in tracked("farrier") if "__pycache__" not in name}
    assert "farrier/py.typed" in names


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        assert b"Apache License" in archive.read(licence)


def test_the_command_line_sizes_a_machine_without_gunicorn(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(BIN / "uv", "pip", "install", "--offline", "--no-deps", "--quiet", "--python", python, wheel)
    shown = run(
        tmp_path / "venv/bin/farrier", "plan", "--memory", "512MiB", "--cpus", "1", "--json", cwd=tmp_path
    )
    assert '"workers"' in shown


def test_the_collection_installs_and_documents_its_role(artifact: Path, tmp_path: Path) -> None:
    # Away from the checkout and its ansible.cfg, which would find the collection there already.
    path = {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    (tmp_path / "ansible.cfg").touch()
    install = ("collection", "install", "--offline", "--no-deps", "-p", tmp_path, artifact)
    run(BIN / "ansible-galaxy", *install, cwd=tmp_path, **path)
    shown = run(BIN / "ansible-doc", "-t", "role", "farrier.web.gunicorn_app", cwd=tmp_path, **path)
    assert "gunicorn_app_name" in shown
    installed = tmp_path / "ansible_collections/farrier/web"
    for name in tracked("farrier", ".py"):
        assert (installed / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_the_collection_holds_nothing_of_the_workshop(artifact: Path) -> None:
    with tarfile.open(artifact) as archive:
        tops = {name.split("/")[0] for name in archive.getnames()}
    assert not tops & {
        ".venv",
        ".ansible",
        ".cache",
        ".git",
        ".ci",
        "lab",
        "tests",
        "benchmarks",
        "dist",
        "build",
    }
    assert {"farrier", "plugins", "roles", "playbooks", "LICENSE", "MANIFEST.json"} <= tops


def test_one_version_everywhere() -> None:
    declared = {
        name: re.search(pattern, (ROOT / name).read_text(), re.M)
        for name, pattern in {
            "pyproject.toml": r'^version = "([^"]+)"',
            "galaxy.yml": r"^version: (\S+)",
            "farrier/__init__.py": r'^__version__ = "([^"]+)"',
        }.items()
    }
    versions = {name: match[1] for name, match in declared.items() if match}
    assert len(versions) == len(declared)
    assert len(set(versions.values())) == 1, versions


def test_modules_import_the_sizing_code_by_one_link_a_file() -> None:
    code = {path.name for path in (ROOT / "farrier/sizing").glob("*.py")}
    links = {
        path.name: path
        for path in (ROOT / "plugins/module_utils/sizing").iterdir()
        if path.name != "__pycache__"
    }
    assert set(links) == code
    for name, link in links.items():
        assert link.is_symlink() and not link.readlink().is_absolute(), name
        assert link.resolve() == ROOT / "farrier/sizing" / name


def test_the_lab_runs_before_anything_is_installed() -> None:
    for path in (ROOT / "lab").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                assert module.split(".")[0] in {*sys.stdlib_module_names, "lab"}, (
                    f"{path.name} imports {module}"
                )


def test_the_pins_hold_versions_and_hashes_and_no_address() -> None:
    text = (ROOT / "requirements/dev.txt").read_text()
    assert "://" not in text
    for block in re.split(r"\n(?=\S)", text):
        assert "==" in block.splitlines()[0], block
        assert "--hash=sha256:" in block, block
