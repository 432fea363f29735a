"""What is said where the apps of a host may hold more database connections together than there are."""

from __future__ import annotations

import json
import re
from typing import Any

from farrier.release import connections
from farrier.sizing import Budget, Settings, Workload, plan

MIB = 1 << 20
BUDGET = Budget(4096 * MIB, 4, "given", "given", 4096 * MIB)


def planned(**chosen: Any) -> dict[str, Any]:
    """plan.json of an app of 4 workers that deploys by overlap."""
    settings = Settings.from_mapping({"workers": 4, "strategy": "overlap", **chosen}, "settings.json")
    made = plan(BUDGET, Workload.profile(framework="flask"), settings)
    found: dict[str, Any] = json.loads(json.dumps(made.to_dict()))
    return found


def test_apps_that_are_each_planned_for_all_of_the_database_are_told_with_the_numbers() -> None:
    one = planned()
    assert connections.too_many({"shop": one}) == ""
    told = connections.too_many({"shop": one, "blog": one, "wiki": one})
    counts, _, rest = told.partition(" connections, more than ")
    assert re.fullmatch(r"blog \d+ \+ shop \d+ \+ wiki \d+ = \d+", counts)
    assert rest.startswith("100 connections (PostgreSQL's default) less 5 in reserve = 95")
    assert ": set database_max_connections" in rest


def test_whoever_was_given_a_part_has_no_database_or_no_plan_does_not_count() -> None:
    one = planned()
    assert connections.too_many({name: planned(database_max_connections=35) for name in "abc"}) == ""
    assert (
        connections.too_many({"a": one, "b": planned(uses_database=False), "c": {}, "d": {"schema": 1}}) == ""
    )
    assert connections.too_many({"a": one, "b": planned(database_max_connections=60), "c": {}}) == ""
