"""A plan that is written for a release of 0.2.0 has the keys of then, and nothing else of it changes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farrier.release import older, units
from farrier.release.layout import Layout
from farrier.release.spec import Spec
from farrier.sizing import Budget, Plan, Settings, Workload, plan

MIB = 1 << 20
#: What Plan.from_dict of 0.2.0 passes on as keywords: an unknown one ends the server before it boots.
WORKLOAD = {
    "kind", "worker_class", "framework", "app_memory_bytes", "shared_fraction", "request_memory_bytes",
    "connection_memory_bytes", "boot_seconds", "preload_safe", "measured", "profile",
}  # fmt: skip
BUDGET = {
    "memory_bytes", "cpus", "memory_source", "cpu_source", "machine_memory_bytes", "memory_high_bytes",
    "swap_bytes", "limits", "scope", "taken_bytes",
}  # fmt: skip
SPEC = {
    "name": "shop",
    "app": "main:app",
    "source": {"type": "requirement", "requirement": "shop==2"},
    "settings": {"workers": 2, "malloc_trim_threshold": "64KiB"},
}


@pytest.fixture
def made() -> Plan:
    workload = Workload.profile(
        framework="django", measured=True, growth_per_1000=5000, cpu_per_request=0.004, wait_per_request=0.05,
        private_memory="40MiB", shared_private="10MiB", shared_base="60MiB", any_class=True,
    )  # fmt: skip
    budget = Budget(1024 * MIB, 2, "given", "given", 1024 * MIB)
    return plan(budget, workload, Settings.from_mapping(dict(SPEC["settings"]), "settings.json"))  # type: ignore[call-overload]


def test_a_plan_for_a_release_of_0_2_0_has_the_keys_that_it_reads(made: Plan) -> None:
    whole = json.loads(json.dumps(made.to_dict()))
    assert set(whole["inputs"]["workload"]) > WORKLOAD
    told = json.loads(json.dumps(older.plan(whole, "0.2.0+g0123456789")))
    assert set(told["inputs"]["workload"]) <= WORKLOAD and set(told["inputs"]["budget"]) <= BUDGET
    assert set(told["inputs"]["settings"]) == {"workers"}
    assert {key for one in told["fields"].values() for key in one} <= set(older.FIELD)
    # The numbers are those of the plan, and this version reads them too.
    left = {"inputs", "fields", "malloc_trim_threshold"}
    assert {k: v for k, v in told.items() if k not in left} == {
        k: v for k, v in whole.items() if k not in left
    }
    assert "malloc_trim_threshold" not in told and "malloc_trim_threshold" not in told["fields"]
    assert Plan.from_dict(told).value("workers") == 2


@pytest.mark.parametrize(
    ("runtime", "less"),
    [("0.2.0", True), ("0.2.0+gab", True), ("0.1", True), ("0.3.0", False), ("1.0.0", False), ("", False)],
)
def test_a_runtime_from_0_3_0_on_gets_the_whole_plan(made: Plan, runtime: str, less: bool) -> None:
    assert older.reads_less(runtime) is less
    assert (older.plan(made.to_dict(), runtime) != made.to_dict()) is less


def test_what_a_colour_reads_is_what_its_release_can_read(made: Plan, tmp_path: Path) -> None:
    def read(runtime: str, name: str) -> dict[str, Any]:
        found = units.colour_files(spec, shop, "blue", made, {}, 0, runtime)
        text = next(unit.text for unit in found if unit.path.name == name)
        read: dict[str, Any] = json.loads(text)
        return read

    spec, shop = Spec.from_mapping(SPEC), Layout("shop", tmp_path)
    assert set(read("0.2.0", "plan.json")["inputs"]["workload"]) <= WORKLOAD
    assert read("0.2.0", "settings.json") == {"workers": 2}
    assert read("0.3.0", "plan.json")["inputs"]["workload"]["growth_per_1000"] == 5000
    assert read("0.3.0", "settings.json") == SPEC["settings"]


def test_a_view_writes_for_the_runtime_of_the_release(made: Plan, tmp_path: Path) -> None:
    """A rollback, the way back of the guard, a neighbour's giving way: all of them by this one function."""
    from farrier.release.state import Release
    from farrier.release.view import View

    spec, shop = Spec.from_mapping(SPEC), Layout("shop", tmp_path)
    view: Any = SimpleNamespace(spec=spec, layout=shop, given_env=lambda src: {}, plan=lambda env: made)
    release = Release("r1", "identity", "2026-11-01T00:00:00Z", runtime="0.2.0+g0123456789")
    wanted, _, _ = View.files(view, "blue", release)
    (text,) = [unit.text for unit in wanted if unit.path.name == "plan.json"]
    assert set(json.loads(text)["inputs"]["workload"]) <= WORKLOAD
