"""Plans outlive versions: a release that an older Farrier built starts from a plan of this one, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farrier.sizing import Budget, Plan, Settings, SizingError, Workload, plan

BUDGET_OF_0_2 = [
    "memory_bytes", "cpus", "memory_source", "cpu_source", "machine_memory_bytes", "memory_high_bytes",
    "swap_bytes", "limits", "scope", "taken_bytes",
]  # fmt: skip
WORKLOAD_OF_0_2 = [
    "kind", "worker_class", "framework", "app_memory_bytes", "shared_fraction", "request_memory_bytes",
    "connection_memory_bytes", "boot_seconds", "preload_safe", "measured", "profile",
]  # fmt: skip


def stored() -> dict[str, Any]:
    chosen = Settings.from_mapping({"workers": 2}, "test")
    made = plan(Budget.given("1GiB", 1), Workload.profile("io", framework="django"), chosen)
    return dict(json.loads(json.dumps(made.to_dict())))


def test_the_inputs_of_a_profiles_plan_have_the_keys_of_0_2_exactly() -> None:
    inputs = stored()["inputs"]
    assert sorted(inputs) == ["budget", "settings", "workload"]
    assert sorted(inputs["budget"]) == sorted(BUDGET_OF_0_2)
    assert sorted(inputs["workload"]) == sorted(WORKLOAD_OF_0_2)
    assert inputs["settings"] == {"workers": {"value": 2, "source": "test"}}


def test_a_workload_says_only_the_newer_figures_that_it_has() -> None:
    load = Workload.profile("io", growth_per_1000=0, wait_per_request=0.0)
    newer = {name: value for name, value in load.to_dict().items() if name not in WORKLOAD_OF_0_2}
    assert newer == {"growth_per_1000": 0, "wait_per_request": 0.0}
    assert Workload.from_dict(load.to_dict()) == load


def test_what_a_newer_version_added_is_passed_over() -> None:
    data = stored()
    known = Plan.from_dict(data)
    for part in (
        data,
        data["inputs"],
        data["inputs"]["budget"],
        data["inputs"]["workload"],
        data["verdict"],
        data["fields"]["workers"],
        data["inputs"]["settings"]["workers"],
    ):
        part["of_a_newer_version"] = {"any": "thing"}
    data["inputs"]["settings"]["newer"] = {"value": 5, "source": "test"}
    data["inputs"]["budget"]["limits"] = [{"kind": "cpu", "value": 1.0, "source": "x", "newer": 1}]
    read = Plan.from_dict(data)
    assert read.fields == known.fields and read.verdict == known.verdict
    assert (read.workload, read.settings) == (known.workload, known.settings)
    assert [limit.source for limit in read.budget.limits] == ["x"]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("verdict", [], "not a plan: "),
        ("verdict", {"level": "tight"}, "not a plan: "),
        ("fields", {"workers": "two"}, "not a plan: "),
        ("fields", {"workers": {"value": 1}}, "not a plan: "),
        ("inputs", {"budget": {}}, "not a budget: "),
        ("inputs", {}, "not a plan: "),
    ],
)
def test_what_lacks_what_a_plan_needs_is_none(part: str, value: object, message: str) -> None:
    with pytest.raises(SizingError, match=f"^{message}"):
        Plan.from_dict({**stored(), part: value})
