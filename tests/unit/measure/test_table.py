"""What a person reads of a measurement, whole or in part."""

from __future__ import annotations

import json
from typing import Any

from farrier.measure.table import render

WHOLE: dict[str, Any] = json.loads("""
{"schema": 1, "app": "shop:app", "interface": "asgi", "framework": null, "worker_class": "uvicorn",
 "python": "3.11.7", "gunicorn": "27.0.1", "machine": {"memory_bytes": 536870912, "cpus": 1.0},
 "requests": [{"method": "GET", "path": "/", "status": 200, "count": 1443}],
 "seconds": 6.24, "import_memory": 50331648, "import_seconds": 1.25, "boot_seconds": 0.9,
 "app_memory": 62914560,
 "alone": {"workers": 2, "rss": 62914560, "pss": 48234496, "uss": 41943040, "master_pss": 20971520},
 "shared": {"workers": 2, "rss": 60817408, "pss": 25165824, "uss": 12582912, "master_pss": 25165824},
 "shared_fraction": 0.8, "growth_per_1000": 10485760, "growth_error": 1000, "request_memory": 92160,
 "connection_memory": 92160, "connections": {"idle": 9216, "slow": 7168, "busy": 92160},
 "cpu_per_request": 0.0012, "wait_per_request": 0.02, "kind": "async",
 "preload_safe": false, "preload_findings": ["thread 'reporter' (shop.py) is alive after the import"],
 "notes": ["GET /x answers 500: left out of every figure"]}
""")


def test_the_whole_of_it() -> None:
    text = render(WHOLE, 120)
    for part in (
        "shop:app: uvicorn workers, Python 3.11.7, gunicorn 27.0.1, 512 MiB and 1 CPU; took 6.2 s",
        "GET /: 200, 1,443 times",
        "48.0 MiB in 1.25 s",
        "60.0 MiB (RSS after the warm-up)",
        "40.0 MiB its own",
        "12.0 MiB its own",
        "80% of the app's memory",
        "10.0 MiB in 1,000 requests",
        "1.2 ms of CPU, 20 ms of waiting: async",
        "90 KiB (idle 9 KiB, slow 7 KiB, busy 90 KiB)",
        "not safe",
        "thread 'reporter' (shop.py) is alive after the import",
        "note: GET /x answers 500",
    ):
        assert part in text


def test_what_was_not_measured_is_said_to_be_so() -> None:
    absent = ("boot_seconds", "shared", "shared_fraction", "growth_per_1000", "request_memory", "kind",
              "connection_memory", "cpu_per_request", "wait_per_request", "preload_safe")  # fmt: skip
    asked = {"method": "GET", "path": "/", "status": 500, "count": 3}
    text = render(WHOLE | dict.fromkeys(absent) | {"requests": [asked]}, 120)
    assert text.count("not measured") == 6
    assert "RSS after its boot" in text


def test_each_status_is_shown_where_there_are_several() -> None:
    asked = {"method": "GET", "path": "/", "status": 200, "count": 1443}
    text = render(WHOLE | {"requests": [asked | {"statuses": {"200": 1400, "500": 43}}]}, 120)
    assert "GET /: 200 1,400 times, 500 43 times" in text


def test_no_line_is_wider_than_the_terminal() -> None:
    assert max(map(len, render(WHOLE, 80).splitlines()[1:])) <= 80
