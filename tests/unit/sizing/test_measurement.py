"""From what `farrier measure` printed to a workload: what a person stated wins, null is assumed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farrier.sizing import (
    Budget,
    Settings,
    SizingError,
    Workload,
    explain,
    kind_of,
    plan,
    workload_of,
)
from farrier.sizing.memory import footprint

MIB = 2**20


def measured(**changed: Any) -> dict[str, Any]:
    figures = {
        "schema": 1,
        "app": "app:app",
        "interface": "wsgi",
        "worker_class": "gthread",
        "python": "3.11.2",
        "gunicorn": "27.0.1",
        "machine": {"memory_bytes": 512 * MIB, "cpus": 1},
        "requests": [{"method": "GET", "path": "/", "status": 200, "count": 400}],
        "seconds": 12.5,
        "import_memory": 140 * MIB,
        "import_seconds": 0.8,
        "boot_seconds": 1.1,
        "app_memory": 148 * MIB,
        "alone": {"workers": 2, "rss": 148 * MIB, "pss": 126 * MIB, "uss": 120 * MIB, "master_pss": 20 * MIB},
        "shared": {"workers": 2, "rss": 150 * MIB, "pss": 44 * MIB, "uss": 8 * MIB, "master_pss": 50 * MIB},
        "shared_fraction": 0.93,
        "growth_per_1000": 3 * MIB,
        "request_memory": 300 * 1024,
        "connection_memory": None,
        "cpu_per_request": 0.0013,
        "wait_per_request": 0.05,
        "preload_safe": True,
        "preload_findings": [],
        "notes": [],
    }
    return {**figures, **changed}


def test_every_figure_has_its_place() -> None:
    load = workload_of(measured())
    assert (load.measured, load.profile_name, load.kind, load.worker_class) == (
        True,
        "measured",
        "io",
        "gthread",
    )
    assert (load.app_memory_bytes, load.private_memory_bytes, load.shared_private_bytes) == (
        148 * MIB,
        120 * MIB,
        8 * MIB,
    )
    assert (load.growth_per_1000, load.request_memory_bytes) == (3 * MIB, 300 * 1024)
    assert (load.cpu_per_request, load.wait_per_request) == (0.0013, 0.05)
    assert (load.boot_seconds, load.preload_safe, load.any_class) == (1.1, True, True)


def test_what_a_person_stated_wins() -> None:
    given = {
        "kind": "mixed",
        "worker_class": "sync",
        "boot_seconds": 9,
        "growth_per_1000": 0,
        "framework": None,
    }
    load = workload_of(measured(), given)
    assert (load.kind, load.worker_class, load.any_class) == ("mixed", "sync", False)
    assert (load.boot_seconds, load.growth_per_1000) == (9, 0)
    assert load.private_memory_bytes == 120 * MIB
    # the shares that were measured belong to the memory that was measured
    larger = workload_of(measured(), {"app_memory": "200MiB"})
    assert (larger.app_memory_bytes, larger.private_memory_bytes, larger.shared_private_bytes) == (
        200 * MIB,
        None,
        None,
    )


def test_null_is_not_measured_and_assumed_from_the_profile() -> None:
    empty = dict.fromkeys(measured())
    figures = {**empty, "schema": 1, "app_memory": 90 * MIB, "alone": {"uss": None}}
    load = workload_of(figures, {"framework": "django"})
    assumed = Workload.profile("io", framework="django")
    assert (load.app_memory_bytes, load.boot_seconds) == (90 * MIB, assumed.boot_seconds)
    assert (load.growth_per_1000, load.cpu_per_request, load.private_memory_bytes) == (None, None, None)
    assert load.preload_safe is None


@pytest.mark.parametrize(
    ("cpu", "wait", "kind"),
    [
        (0.010, 0.0, "cpu"),
        (0.010, 0.002, "mixed"),
        (0.005, 0.015, "mixed"),
        (0.005, 0.025, "io"),
        (0.0013, 0.05, "io"),
        (0.0013, 0.0, "io"),  # a front page that does nothing says nothing of the rest
        (0.010, None, "io"),
    ],
)
def test_the_kind_of_an_app_of_which_nobody_said_it(cpu: float, wait: float | None, kind: str) -> None:
    assert workload_of(measured(cpu_per_request=cpu, wait_per_request=wait)).kind == kind
    assert (
        workload_of(measured(cpu_per_request=cpu, wait_per_request=wait), {"kind": "mixed"}).kind == "mixed"
    )


def test_on_an_event_loop_a_connection_takes_its_request_too() -> None:
    figures = measured(interface="asgi", worker_class="uvicorn", connection_memory=100 * 1024)
    load = workload_of(figures)
    assert (load.kind, load.connection_memory_bytes, load.any_class) == ("async", 400 * 1024, False)
    assert workload_of(figures, {"connection_memory": "2MiB"}).connection_memory_bytes == 2 * MIB
    idle = workload_of(measured(request_memory=0, connection_memory=0))
    assert (idle.request_memory_bytes, idle.connection_memory_bytes) == (128 * 1024, 64 * 1024)


def test_the_footprint_takes_the_measured_shares() -> None:
    load = workload_of(measured())
    alone, shared = (footprint(load, "gthread", preload) for preload in (False, True))
    assert (alone.mapped, alone.master, alone.worker) == (28 * MIB, 22 * MIB, 120 * MIB)
    # a quarter more than was seen, because other requests write to other pages
    # master and two workers take 50 + 2 x 44 together: less 2 x 8 of the workers and the mapped files
    assert (shared.mapped, shared.master, shared.worker) == (28 * MIB, (122 - 28) * MIB, 10 * MIB)
    unknown = footprint(workload_of(measured(shared={"uss": 8 * MIB})), "gthread", True)
    assert (unknown.master, unknown.worker) == (120 * MIB, 10 * MIB)
    # facts of the same app: two workers, preloaded and frozen, use 136 MB in all
    assert 136 <= shared.steady(2, 0, False) / MIB <= 136 * 1.25
    # without a frozen heap the measured share says nothing
    assert footprint(load, "gthread", True, frozen=False).worker == int(148 * MIB * 0.55)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schema": 2}, "not a measurement: schema is 2, this version reads 1"),
        ({"alone": 3}, "not a measurement: alone is 3, and an object is wanted"),
        (
            {"app_memory": "lots"},
            "not a measurement: app_memory is 'lots', and a number of 0 or more is wanted",
        ),
        (
            {"cpu_per_request": -1},
            "not a measurement: cpu_per_request is -1, and a number of 0 or more is wanted",
        ),
        (
            {"growth_per_1000": True},
            "not a measurement: growth_per_1000 is True, and a number of 0 or more is wanted",
        ),
        (
            {"wait_per_request": float("nan")},
            "not a measurement: wait_per_request is nan, and a number of 0 or more is wanted",
        ),
        (
            {"boot_seconds": float("inf")},
            "not a measurement: boot_seconds is inf, and a number of 0 or more is wanted",
        ),
        ({"boot_seconds": 1e9}, "measurement: boot_seconds 1e+09 must be at most 86400 (a day)"),
        (
            {"preload_safe": "false"},
            "not a measurement: preload_safe is 'false', and true or false is wanted",
        ),
        ({"worker_class": ["sync"]}, "not a measurement: worker_class is ['sync'], and a name is wanted"),
        ({"interface": 5}, "not a measurement: interface is 5: allowed are wsgi, asgi"),
        ({"schema": True}, "not a measurement: schema is True, this version reads 1"),
        (
            {"app_memory": None},
            "not a measurement: app_memory is missing, without which nothing was measured",
        ),
        (
            {"failed": "it was killed\n for memory"},
            "the measurement failed, so that no plan is made of it: it was killed for memory",
        ),
    ],
)
def test_what_is_no_measurement(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SizingError) as error:
        workload_of(measured(**changed))
    assert str(error.value) == message
    with pytest.raises(SizingError, match=r"^measurement: 'moon' is not known"):
        workload_of(measured(), {"moon": 1})


def test_json_round_trip() -> None:
    load = workload_of(measured())
    assert Workload.from_dict(json.loads(json.dumps(load.to_dict()))) == load


def test_who_states_the_memory_needs_no_measurement_of_it() -> None:
    load = workload_of(measured(app_memory=None), {"app_memory": "90MiB"})
    assert (load.app_memory_bytes, load.wait_per_request) == (90 * MIB, 0.05)


@pytest.mark.parametrize(
    ("cpu", "wait", "interface", "kind"),
    [
        (0.010, 0.0, "wsgi", "cpu"),
        (0.010, 0.002, "wsgi", "mixed"),
        (0.0013, 0.0, None, "io"),
        (None, 0.05, "wsgi", None),
        (0.010, None, "wsgi", None),
        (0.010, 0.0, "asgi", "async"),
        (None, None, "asgi", "async"),
    ],
)
def test_one_rule_tells_the_kind(
    cpu: float | None, wait: float | None, interface: str | None, kind: str | None
) -> None:
    assert kind_of(cpu, wait, interface) == kind


@pytest.mark.parametrize(
    ("growth", "error", "known"),
    [
        (0, None, 0),
        (0, 200_000, 0),
        (0, 641_900, 0),
        (0, 642_100, None),  # 1.5 MiB may hide in it
        (0, 10**7, None),
        (None, 0, None),
        (5 * MIB, 10**7, 5 * MIB),
    ],
)
def test_growth_that_could_not_have_been_seen_is_not_known_to_be_none(
    growth: int | None, error: float | None, known: int | None
) -> None:
    load = workload_of(measured(growth_per_1000=growth, growth_error=error))
    assert load.growth_per_1000 == known
    practice = plan(Budget.given("1GiB", 1), workload_of(measured(growth_per_1000=None)))
    found = plan(Budget.given("1GiB", 1), load).value("max_requests")
    if known is None:
        assert found == practice.value("max_requests")
    elif known == 0:
        assert found == 10 * int(str(practice.value("max_requests")))


def test_what_makes_preloading_unsafe_is_named() -> None:
    findings = ["a thread is alive after the import:\n  worker-1", "a socket is open"]
    load = workload_of(measured(preload_safe=False, preload_findings=findings))
    made = plan(Budget.given("512MiB", 1), load)
    what = "a thread is alive after the import: worker-1"
    assert made["preload_app"].why == f"the app is not safe to preload: {what}"
    assert f"not safe to preload ({what})" in " ".join(explain(made, "preload_app").split())
    forced = plan(made.budget, load, Settings.from_mapping({"preload_app": True}, "PRELOAD_APP"))
    assert f"PRELOAD_APP: preload_app on, but the app is not safe to preload: {what}" in forced.warnings
    assert Workload.from_dict(load.to_dict()) == load
    safe = workload_of(measured(preload_findings=["old"]), {"preload_safe": True})
    assert safe.preload_finding is None and "preload_finding" not in safe.to_dict()


def test_a_class_that_a_person_chose_for_the_measurement_is_kept() -> None:
    computing = {"cpu_per_request": 0.02, "wait_per_request": 0.0}
    assert workload_of(measured(**computing)).any_class is True
    assert workload_of(measured(**computing, worker_class_chosen=False)).any_class is True
    chosen = workload_of(measured(**computing, worker_class_chosen=True))
    assert chosen.any_class is False
    assert plan(Budget.given("4GiB", 2), chosen).value("worker_class") == "gthread"


def test_figures_out_of_all_proportion_make_a_plan_within_bounds() -> None:
    load = workload_of(measured(cpu_per_request=1e-300, wait_per_request=86_400))
    assert 1 <= int(str(plan(Budget.given("4GiB", 2), load).value("threads"))) <= 1000
