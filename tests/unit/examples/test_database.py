"""farrier.database and farrier.django: the plan's share of the database, handed to the app."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from farrier.database import PlanUnreadable, pool_settings
from farrier.django import database_settings

ROOT = Path(__file__).resolve().parents[3]
PLAN = {"db_pool_size": 4, "db_max_overflow": 2, "db_conn_max_age": 600, "db_conn_health_checks": True}


@pytest.fixture(params=["json", "path"])
def planned(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The plan in the variable itself, and in a file that it names."""
    if request.param == "json":
        return {"FARRIER_PLAN": json.dumps(PLAN)}
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    return {"FARRIER_PLAN": str(tmp_path / "plan.json")}


def test_sqlalchemy_gets_the_plans_pool(planned: dict[str, str]) -> None:
    got = pool_settings(planned)
    assert (got["pool_size"], got["max_overflow"], got["pool_pre_ping"]) == (4, 2, True)


def test_a_pool_of_none_is_never_an_unlimited_one() -> None:
    assert pool_settings({"FARRIER_PLAN": '{"db_pool_size": 0, "db_max_overflow": 0}'})["pool_size"] == 1


def test_django_keeps_connections_as_long_as_the_plan_says(planned: dict[str, str]) -> None:
    assert database_settings(env=planned) == {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}


def test_djangos_pool_takes_pool_and_overflow_and_no_persistent_connection(planned: dict[str, str]) -> None:
    got = database_settings(pool=True, env=planned)
    assert got["CONN_MAX_AGE"] == 0
    assert got["OPTIONS"]["pool"]["max_size"] == 6


def test_without_a_plan_both_are_cautious() -> None:
    assert database_settings(env={}) == {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": True}
    assert pool_settings({})["max_overflow"] == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/nowhere/plan.json", "FARRIER_PLAN=/nowhere/plan.json: No such file"),
        ("{broken", "FARRIER_PLAN: not JSON"),
        ('{"db_pool_size": "many"}', "db_pool_size is 'many'; allowed: a whole number"),
        ('{"db_pool_size": -1}', "db_pool_size is -1; allowed: a whole number"),
        ('{"db_pool_size": true}', "db_pool_size is True; allowed: a whole number"),
    ],
)
def test_an_unreadable_plan_is_said_in_one_line(given: str, said: str) -> None:
    with pytest.raises(PlanUnreadable) as refused:
        pool_settings({"FARRIER_PLAN": given})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


IMPORTS = """
import sys
sys.path.insert(0, {root!r})
import farrier.django
found = {{name.partition(".")[0] for name in sys.modules}}
print(sorted(name for name in found if name not in sys.stdlib_module_names and not name.startswith("_")))
"""


def test_it_imports_the_standard_library_only() -> None:
    command = [sys.executable, "-I", "-S", "-c", IMPORTS.format(root=str(ROOT))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "['farrier']"
