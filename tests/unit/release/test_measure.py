"""What of a measurement is kept: no more digits than it is good for, and no change that is only noise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farrier.errors import FarrierError
from farrier.release import measure, sized
from farrier.release.spec import Spec
from farrier.sizing import constants

MIB = 1 << 20
FOUND: dict[str, Any] = {
    "schema": 1,
    "interface": "wsgi",
    "framework": "flask",
    "worker_class": "gthread",
    "requests": [{"method": "GET", "path": "/", "status": 200, "count": 1200}],
    "import_memory": 41 * MIB + 17,
    "import_seconds": 0.2171,
    "boot_seconds": 0.3128,
    "app_memory": 48 * MIB + 1,
    "alone": {
        "workers": 2,
        "rss": 48 * MIB + 1,
        "pss": 30 * MIB,
        "uss": 21 * MIB + 9,
        "master_pss": 19 * MIB,
    },
    "shared": {"workers": 2, "rss": 47 * MIB, "pss": 20 * MIB, "uss": 5 * MIB + 1, "master_pss": None},
    "shared_fraction": 0.8941,
    "growth_per_1000": 0,
    "request_memory": 70_000,
    "connection_memory": None,
    "cpu_per_request": 0.001234,
    "wait_per_request": 0.050567,
    "preload_safe": True,
    "preload_findings": [],
    "notes": [],
}


def stored(**other: Any) -> dict[str, Any]:
    return measure._rounded(measure._judged(json.dumps({**FOUND, **other})))


def test_figures_are_kept_with_the_digits_that_they_are_good_for() -> None:
    kept = stored()
    assert (kept["app_memory"], kept["import_memory"]) == (49 * MIB, 42 * MIB)
    assert kept["request_memory"] == 80 * 1024
    assert kept["alone"]["uss"] == 22 * MIB and kept["alone"]["workers"] == 2
    assert kept["shared"]["master_pss"] is None and kept["connection_memory"] is None
    assert (kept["cpu_per_request"], kept["wait_per_request"]) == (0.0012, 0.051)
    assert (kept["boot_seconds"], kept["shared_fraction"], kept["growth_per_1000"]) == (0.31, 0.89, 0)


def test_what_differs_by_noise_is_the_same_plan() -> None:
    before = stored()
    again = stored(
        app_memory=int(FOUND["app_memory"] * 1.02), cpu_per_request=0.0014, boot_seconds=0.35,
        shared=None, shared_fraction=None,
        alone={**FOUND["alone"], "uss": FOUND["alone"]["uss"] + MIB},
    )  # fmt: skip
    kept = measure.steadied(again, before)
    spec = Spec.from_mapping(
        {"name": "shop", "app": "m:app", "source": {"type": "requirement", "requirement": "s"}}
    )
    assert sized.workload_for(spec, {"measurement": kept}) == sized.workload_for(
        spec, {"measurement": before}
    )
    # Kept figures do not walk away with every deploy.
    assert (
        measure.steadied(stored(app_memory=int(FOUND["app_memory"] * 1.04)), kept)["app_memory"] == 49 * MIB
    )


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"app_memory": 60 * MIB}, "app_memory"),
        ({"cpu_per_request": 0.003}, "cpu_per_request"),
        ({"growth_per_1000": 4 * MIB}, "growth_per_1000"),
        ({"preload_safe": False}, "preload_safe"),
    ],
)
def test_what_differs_by_more_is_taken(changed: dict[str, Any], key: str) -> None:
    now = stored(**changed)
    assert measure.steadied(now, stored())[key] == now[key] != stored()[key]


def test_another_worker_class_or_other_requests_are_not_the_same_measurement() -> None:
    for other in ({"worker_class": "sync"}, {"requests": [{**FOUND["requests"][0], "path": "/shop"}]}):
        now = stored(**other, app_memory=FOUND["app_memory"] + MIB)
        assert measure.steadied(now, stored()) == now


def test_an_app_that_answers_with_errors_is_not_measured_by_them() -> None:
    failing = [{**FOUND["requests"][0], "status": 500}]
    with pytest.raises(FarrierError, match=r"^GET / answered 500$"):
        measure._judged(json.dumps({**FOUND, "requests": failing}))
    missing = stored(requests=[{**FOUND["requests"][0], "status": 404}])
    assert missing["cpu_per_request"] is None and missing["app_memory"] == 49 * MIB
    assert missing["notes"] == ["GET / answered 404: its time was left out"]


def test_what_a_person_stated_stands_above_what_was_measured() -> None:
    spec = Spec.from_mapping(
        {
            "name": "shop",
            "app": "m:app",
            "source": {"type": "requirement", "requirement": "s"},
            "workload": {"app_memory": "90MiB"},
        }
    )
    workload = sized.workload_for(spec, {"measurement": stored(), "app_memory": 30 * MIB})
    assert workload.app_memory_bytes == 90 * MIB
    assert (workload.measured, workload.cpu_per_request, workload.boot_seconds) == (True, 0.0012, 0.31)


def test_a_front_page_that_computes_says_nothing_of_the_rest_where_nobody_named_a_request() -> None:
    computing = {**FOUND, "interface": "wsgi", "cpu_per_request": 0.01, "wait_per_request": 0.0}
    found = measure.front_page_only(computing)
    assert found["cpu_per_request"] is None and found["wait_per_request"] is None
    assert "name requests" in found["notes"][-1]
    assert found["app_memory"] == FOUND["app_memory"]
    waiting = {**computing, "wait_per_request": 0.05}
    assert measure.front_page_only(waiting) == waiting
    assert measure.front_page_only({**computing, "interface": "asgi"})["cpu_per_request"] == 0.01
    assert measure.WAITS_FROM == constants.WAITS_FROM
