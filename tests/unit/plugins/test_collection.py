"""The collection as ansible-galaxy ships it: everything that a host needs, nothing that it does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible_collections.farrier.web.farrier.release import runtime

ROOT = Path(__file__).resolve().parents[3]
GALAXY = Path(sys.executable).with_name("ansible-galaxy")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("artifact")
    command = [str(GALAXY), "collection", "build", "--output-path", str(place), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, cwd=place)
    return next(place.glob("farrier-web-*.tar.gz"))


@pytest.fixture(scope="module")
def installed(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("collections")
    command = [str(GALAXY), "collection", "install", "--offline", "-p", str(place), str(artifact)]
    subprocess.run(command, check=True, capture_output=True, cwd=place)
    return place


def test_it_ships_the_runtime_the_role_and_the_plugins_and_none_of_our_own_tools(artifact: Path) -> None:
    with tarfile.open(artifact) as tar:
        names = set(tar.getnames())
    for wanted in ("farrier/sizing/plan.py", "roles/gunicorn_app/tasks/main.yml", "plugins/action/app.py"):
        assert wanted in names
    for playbook in ("site", "deploy", "reload", "rollback", "remove"):
        assert f"playbooks/{playbook}.yml" in names
    tops = {name.split("/")[0] for name in names}
    assert not tops & {".venv", ".ansible", ".git", "tests", "lab", "benchmarks", "dist"}
    assert not [name for name in names if "__pycache__" in name]


def test_an_installed_collection_builds_the_checkouts_runtime(installed: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder\n"
        "_AnsibleCollectionFinder(paths=[sys.argv[1]])._install()\n"
        "from ansible_collections.farrier.web.farrier.release import runtime\n"
        "own = runtime.find(None)\n"
        "runtime.pack(runtime.home() / 'farrier', Path(sys.argv[2], own.placed_wheel.name))\n"
        "print(own.placed_wheel.name)"
    )
    arguments = [sys.executable, "-c", script, str(installed), str(tmp_path)]
    name = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.strip()
    here = tmp_path / "here.whl"
    runtime.pack(ROOT / "farrier", here)
    assert (tmp_path / name).read_bytes() == here.read_bytes()
    assert re.fullmatch(r"farrier-\d+\.\d+\.\d+\+[0-9a-z]+-py3-none-any\.whl", name)


def test_pip_takes_the_runtime_and_the_command_answers(tmp_path: Path) -> None:
    own = runtime.find(None)
    wheel = tmp_path / own.placed_wheel.name
    runtime.pack(ROOT / "farrier", wheel)
    target = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(target)], check=True, capture_output=True)
    pip = [str(target / "bin" / "pip"), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    command = [str(target / "bin" / "farrier"), "plan", "--memory", "512MiB", "--cpus", "1"]
    environment = {"PATH": os.environ["PATH"]}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert "workers" in answer.stdout


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("module", "farrier.web.app", "migrate_on"),
        ("module", "farrier.web.preflight", "memory"),
        ("module", "farrier.web.release", "rollback"),
        ("filter", "farrier.web.plan", "memory"),
        ("filter", "farrier.web.batches", "serial"),
        ("role", "farrier.web.gunicorn_app", "gunicorn_app_guard"),
    ],
)
def test_ansible_doc_explains_it(installed: Path, kind: str, name: str, told: str) -> None:
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(installed),
        "ANSIBLE_CONFIG": "",
        "LC_ALL": "C.UTF-8",
    }
    command = [str(GALAXY.with_name("ansible-doc")), "-t", kind, name]
    answer = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=installed, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "WARNING" not in answer.stderr and told in answer.stdout
