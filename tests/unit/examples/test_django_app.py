"""The task list, each time in a Django process of its own: Django is configured once per process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "django_app"
ROOT = EXAMPLE.parents[1]

VISIT = """
import json, django
django.setup()
from django.core.management import call_command
from django.test import Client
from django.conf import settings
call_command("migrate", verbosity=0)
client = Client(enforce_csrf_checks=True)
answers = {}
%s
print(json.dumps(answers, default=str))
"""


def django(script: str, data: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("FARRIER_", "DATABASE_"))
    }
    environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATA_DIR": str(data),
        "PYTHONPATH": str(ROOT),
        **env,
    }
    return subprocess.run(
        [sys.executable, "-c", script], cwd=EXAMPLE, env=environ, capture_output=True, text=True, check=False
    )


def answers(script: str, data: Path, **env: str) -> dict:
    done = django(VISIT % script, data, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_task_is_added_done_and_shown_escaped(tmp_path: Path) -> None:
    got = answers(
        """
client.get("/")
token = client.cookies["csrftoken"].value
answers["without_token"] = client.post("/add", {"title": "x"}).status_code
answers["empty"] = client.post("/add", {"title": " ", "csrfmiddlewaretoken": token}).status_code
answers["add"] = client.post("/add", {"title": "<i>shoe</i>", "csrfmiddlewaretoken": token}).status_code
answers["page"] = client.get("/").content.decode()
answers["done"] = client.post("/done/1", {"csrfmiddlewaretoken": token}).status_code
answers["tasks"] = client.get("/tasks.json").json()["tasks"]
answers["wait"] = client.get("/wait?ms=1").json()["waited_ms"]
answers["too_long"] = client.get("/spin?ms=10001").status_code
""",
        tmp_path,
    )
    assert (got["without_token"], got["empty"], got["add"], got["done"]) == (403, 400, 302, 302)
    assert "&lt;i&gt;shoe" in got["page"]
    assert got["tasks"] == [{"id": 1, "title": "<i>shoe</i>", "done": True}]
    assert (got["wait"], got["too_long"]) == (1, 400)


def test_the_migrations_are_complete(tmp_path: Path) -> None:
    done = django(
        "import django; django.setup(); from django.core.management import call_command;"
        "call_command('makemigrations', check=True, dry_run=True)",
        tmp_path,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("plan", "age", "checks"),
    [
        ('{"db_conn_max_age": 600, "db_conn_health_checks": true}', 600, True),
        ('{"db_conn_max_age": 0, "db_conn_health_checks": false}', 0, False),
    ],
)
def test_connections_last_as_long_as_the_plan_says(tmp_path: Path, plan: str, age: int, checks: bool) -> None:
    got = answers('answers = client.get("/whoami").json()["database"]', tmp_path, FARRIER_PLAN=plan)
    assert (got["conn_max_age"], got["conn_health_checks"]) == (age, checks)


def test_without_a_plan_a_connection_lasts_one_request(tmp_path: Path) -> None:
    assert answers('answers = client.get("/whoami").json()["database"]', tmp_path)["conn_max_age"] == 0


def test_a_wrong_database_url_is_named_without_its_password(tmp_path: Path) -> None:
    done = django("import config.settings", tmp_path, DATABASE_URL="mysql://u:secret@db/tasks")
    assert "DATABASE_URL begins with mysql:; allowed: postgresql://" in done.stderr
    assert "secret" not in done.stderr.rpartition("\n  File")[2].splitlines()[-1]


def test_readiness_fails_until_the_migrations_ran(tmp_path: Path) -> None:
    script = "import django; django.setup(); from tasks.ready import database; database()"
    assert "no such table" in django(script, tmp_path).stderr
    answers("", tmp_path)
    assert django(script, tmp_path).returncode == 0


def test_the_secret_key_is_made_once_and_stays_private(tmp_path: Path) -> None:
    script = "from config.settings import SECRET_KEY; print(SECRET_KEY)"
    first, second = django(script, tmp_path).stdout, django(script, tmp_path).stdout
    assert first == second != ""
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600
