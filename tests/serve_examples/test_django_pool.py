"""Django's own pool with the plan's numbers, on the packages of the example's lock, installed as locked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "django_app"

SHOW = """
import django; django.setup()
from django.db import connection
pool, settings = connection.pool, connection.settings_dict
print(pool.min_size, pool.max_size, settings["CONN_MAX_AGE"], settings["HOST"])
connection.close_pool()
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the lock says, every hash checked."""
    folder = tmp_path_factory.mktemp("packages")
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    assert uv, "uv is not there: make tools"
    install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder)]
    lock = str(EXAMPLE / "requirements.txt")
    done = subprocess.run(
        [*install, "--require-hashes", "-r", lock], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def show(packages: Path, data: Path, plan: str) -> list[str]:
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env |= {"DJANGO_SETTINGS_MODULE": "config.settings", "DATA_DIR": str(data), "FARRIER_PLAN": plan}
    env |= {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/tasks", "DATABASE_POOL": "1"}
    # -S: only the lock's packages and ours, not those of this Python.
    path = f"import sys; sys.path[:0] = [{str(packages)!r}, {str(ROOT)!r}, {str(EXAMPLE)!r}]\n"
    command = [sys.executable, "-S", "-c", path + SHOW]
    done = subprocess.run(command, env=env, cwd=data, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_pool_is_one_that_django_itself_accepts(packages: Path, tmp_path: Path) -> None:
    plan = '{"db_pool_size": 3, "db_max_overflow": 2, "db_conn_max_age": 600}'
    assert show(packages, tmp_path, plan) == ["1", "5", "0", "127.0.0.1"]


def test_a_plan_with_one_connection_gives_a_pool_of_one(packages: Path, tmp_path: Path) -> None:
    assert show(packages, tmp_path, '{"db_pool_size": 0, "db_max_overflow": 0}')[:2] == ["1", "1"]
