"""What an app is, and what is assumed of it."""

from __future__ import annotations

import json

import pytest

from farrier.sizing import SizingError, Workload, normalise_worker_class

MIB = 2**20


@pytest.mark.parametrize(
    ("given", "short"),
    [
        ("sync", "sync"),
        ("gunicorn.workers.sync.SyncWorker", "sync"),
        ("egg:gunicorn#sync", "sync"),
        ("gthread", "gthread"),
        ("gunicorn.workers.gthread.ThreadWorker", "gthread"),
        ("asgi", "asgi"),
        ("gunicorn.workers.gasgi.ASGIWorker", "asgi"),
        ("uvicorn", "uvicorn"),
        ("uvicorn.workers.UvicornWorker", "uvicorn"),
        ("uvicorn.workers.UvicornH11Worker", "uvicorn"),
        ("uvicorn_worker.UvicornWorker", "uvicorn"),
        ("gevent", "gevent"),
        ("egg:gunicorn#gevent", "gevent"),
        ("gunicorn.workers.ggevent.GeventWorker", "gevent"),
        ("farrier.serve.workers.gevent.GeventWorker", "gevent"),
        (" gthread ", "gthread"),
        ("farrier.serve.workers.gthread.ThreadWorker", "gthread"),
        ("farrier.serve.workers.uvicorn.UvicornWorker", "uvicorn"),
    ],
)
def test_long_names_become_short(given: str, short: str) -> None:
    assert normalise_worker_class(given) == short


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("eventlet", "refused: it left Gunicorn in version 26;"),
        ("gunicorn.workers.geventlet.EventletWorker", "refused: it left Gunicorn in version 26;"),
        ("gevent_wsgi", "refused: it brings a server of its own, which cannot drain; use gevent;"),
        ("gevent_pywsgi", "use gevent;"),
        ("egg:gunicorn#gevent_pywsgi", "use gevent;"),
        ("gunicorn.workers.ggevent.GeventPyWSGIWorker", "use gevent;"),
        ("tornado", "refused: it cannot drain without losing requests;"),
        ("my.own.Worker", "is not known:"),
        ("", "is not known:"),
    ],
)
def test_others_are_refused_with_the_reason_and_the_allowed(given: str, reason: str) -> None:
    with pytest.raises(SizingError) as error:
        normalise_worker_class(given)
    assert reason in str(error.value)
    assert str(error.value).endswith("allowed are sync, gthread, asgi, uvicorn, gevent")


@pytest.mark.parametrize(
    ("kind", "framework", "worker_class"),
    [
        ("io", None, "gthread"),
        ("io", "django", "gthread"),
        ("cpu", "flask", "gthread"),
        ("async", None, "asgi"),
        ("async", "django", "asgi"),
        ("async", "fastapi", "uvicorn"),
        ("io", "fastapi", "uvicorn"),
        (None, "fastapi", "uvicorn"),
    ],
)
def test_the_class_that_fits(kind: str | None, framework: str | None, worker_class: str) -> None:
    assert Workload.profile(kind, framework=framework).worker_class == worker_class


def test_a_profile_says_that_it_is_assumed() -> None:
    load = Workload.profile("io", framework="flask")
    assert (load.measured, load.profile_name) == (False, "flask io")
    measured = Workload.profile("io", app_memory="148MiB", measured=True)
    assert (measured.measured, measured.profile_name, measured.app_memory_bytes) == (
        True,
        "measured",
        148 * MIB,
    )


def test_an_async_class_makes_an_async_app() -> None:
    assert Workload.profile(worker_class="uvicorn").kind == "async"
    assert Workload.profile(worker_class="sync").kind == "io"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "gpu"}, "workload 'gpu' is not known: allowed are io, cpu, mixed, async"),
        ({"framework": "rails"}, "framework 'rails' is not known: allowed are django, flask, fastapi"),
        ({"app_memory": 0}, "app_memory 0 must be above 0"),
        ({"shared_fraction": 1.0}, "shared_fraction 1.0 must be from 0 to below 1"),
        ({"boot_seconds": -1}, "boot_seconds -1.0 must be 0 or more"),
        ({"boot_seconds": float("nan")}, "boot_seconds nan must be a number below 2**63"),
        ({"boot_seconds": float("inf")}, "boot_seconds inf must be a number below 2**63"),
        ({"boot_seconds": 86_401}, "boot_seconds 86401 must be at most 86400 (a day)"),
        ({"boot_seconds": True}, "boot_seconds True must be a number"),
        ({"cpu_per_request": "nan"}, "cpu_per_request nan must be a number below 2**63"),
        ({"cpu_per_request": "fast"}, "cpu_per_request 'fast' must be a number"),
        ({"wait_per_request": 1e6}, "wait_per_request 1e+06 must be at most 86400 (a day)"),
        ({"shared_fraction": "nan"}, "shared_fraction nan must be a number below 2**63"),
        ({"preload_safe": "false"}, "preload_safe 'false' must be true or false"),
        ({"preload_safe": 0}, "preload_safe 0 must be true or false"),
        ({"measured": "yes"}, "measured 'yes' must be true or false"),
    ],
)
def test_what_is_no_workload(given: dict[str, object], message: str) -> None:
    with pytest.raises(SizingError) as error:
        Workload.profile(**given)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_from_a_file() -> None:
    load = Workload.from_mapping({"kind": "cpu", "app_memory": "64M"}, "app.json")
    assert (load.kind, load.app_memory_bytes) == ("cpu", 64 * MIB)
    with pytest.raises(
        SizingError, match=r"^app.json: 'memory' is not known: allowed are kind, worker_class,"
    ):
        Workload.from_mapping({"memory": 1}, "app.json")
    with pytest.raises(SizingError, match=r"^app.json: 'lots' is not a size"):
        Workload.from_mapping({"app_memory": "lots"}, "app.json")


def test_json_round_trip() -> None:
    load = Workload.profile("async", framework="django", app_memory="148MiB", preload_safe=True)
    data = json.loads(json.dumps(load.to_dict()))
    assert data["profile"] == "django async"
    assert Workload.from_dict(data) == load
