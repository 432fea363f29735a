"""A person's choices: they stand, they are shown as theirs, and they are checked against the rest."""

from __future__ import annotations

import pytest

from farrier.sizing import Budget, Plan, Settings, SizingError, Workload, plan

MIB = 2**20


def chosen(load: Workload | None = None, memory: str = "1G", cpus: float = 2, **settings: object) -> Plan:
    choices = Settings.from_mapping(settings, "settings.json")
    return plan(Budget.given(memory, cpus), load or Workload.profile("io"), choices)


def test_a_choice_is_shown_as_theirs_with_what_the_plan_would_say() -> None:
    one = chosen(workers=3)
    field = one["workers"]
    assert (field.value, field.source, field.bound_by) == (3, "settings.json", "person")
    assert (
        field.why
        == "set by settings.json; the plan: 4, 96 threads in all, of which a worker has at most 32: 2 a CPU"
    )
    assert one.to_dict()["workers"] == 3
    same = chosen(workers=4)["workers"]
    assert same.why.startswith("set by settings.json; the plan says the same, 96 threads")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 77),
        ("graceful_timeout", 11),
        ("keepalive", 99),
        ("max_requests", 123),
        ("max_requests_jitter", 7),
        ("preload_app", True),
        ("worker_tmp_dir", "/tmp"),
        ("backlog", 64),
        ("loglevel", "debug"),
        ("threads", 5),
        ("worker_connections", 55),
        ("malloc_arena_max", 4),
        ("db_pool_size", 2),
        ("db_max_overflow", 0),
        ("db_conn_max_age", 0),
        ("stop_timeout", 90),
        ("memory_max", 400 * MIB),
        ("cloud_run_concurrency", 10),
        ("strategy", "queue"),
        ("reload", True),
    ],
)
def test_every_field_can_be_chosen(name: str, value: object) -> None:
    one = chosen(**{name: value})
    assert (one.value(name), one[name].source) == (value, "settings.json")
    assert [other.name for other in one.fields.values() if other.source != "plan"] == [name]


def test_the_rest_follows_a_choice() -> None:
    assert chosen(max_requests=0).value("max_requests_jitter") == 0
    assert chosen(timeout=20).value("graceful_timeout") == 20
    assert chosen(graceful_timeout=50).value("stop_timeout") == 60
    assert chosen(stop_timeout=12).value("graceful_timeout") == 10
    assert chosen(preload_app=True).value("freeze_heap") is True
    few, many = (chosen(workers=count, preload_app=False).value("memory_peak") for count in (4, 8))
    assert int(str(many)) > int(str(few))
    assert chosen(proxy_keepalive=120).value("keepalive") == 125


def test_more_workers_than_memory_is_a_warning_with_numbers() -> None:
    one = plan(
        Budget.given("512M", 1),
        Workload.profile("io", preload_safe=False),
        Settings.from_environ({"WORKERS": "9"}),
    )
    assert one.value("workers") == 9
    assert one.verdict.level == "not viable"
    assert one.warnings[0] == (
        "WORKERS: 9 workers: 709 MiB needed, 364 MiB there (512 MiB less 93 MiB system, 16 MiB proxy, 8 MiB "
        "log shipper = 395 MiB, less 8% headroom)"
    )


def test_a_strategy_that_does_not_fit_is_a_warning() -> None:
    one = chosen(Workload.profile("io", preload_safe=False), "512M", 1, strategy="overlap", workers=3)
    assert one.value("strategy") == "overlap"
    assert one.warnings[0].startswith("settings.json, settings.json: a deploy by overlap:")


def test_graceful_beyond_the_kill_is_a_warning() -> None:
    one = chosen(runtime="docker", graceful_timeout=30)
    assert one.warnings == (
        "settings.json: graceful_timeout 30 s is not below the 10 s after which docker stop kills, so "
        "running requests are cut: allowed is up to 8 s",
    )
    assert chosen(graceful_timeout=30).warnings == ()


def test_graceful_beyond_the_timeout_of_a_sync_worker_is_a_warning() -> None:
    sync = Workload.profile("io", "sync")
    assert chosen(sync, graceful_timeout=50, timeout=40).warnings == (
        "settings.json: graceful_timeout 50 s is longer than timeout 40 s, after which a sync worker is "
        "ended with its request: allowed is up to 40 s",
    )
    assert chosen(sync, graceful_timeout=40, timeout=40).warnings == ()
    assert chosen(graceful_timeout=50, timeout=40).warnings == ()  # gthread: its loop gives a sign of life


@pytest.mark.parametrize(
    ("worker_class", "ends", "graceful"),
    [
        ("sync", "it ends a request that takes longer, with its worker", "a request may take 20 s (timeout)"),
        (
            "gthread",
            "it ends a worker that is stuck, not a request that hangs in a thread",
            "no longer than a worker may be silent: 20 s (timeout)",
        ),
        (
            "asgi",
            "it ends a loop that is stuck, not a request that waits for ever",
            "no longer than a worker may be silent: 20 s (timeout)",
        ),
    ],
)
def test_what_the_timeout_ends_depends_on_the_class(worker_class: str, ends: str, graceful: str) -> None:
    one = chosen(Workload.profile("io", worker_class), timeout=20)
    assert one["timeout"].why.endswith(f"; {ends}")
    assert one["graceful_timeout"].why == graceful


def test_keepalive_below_the_proxys_is_a_warning() -> None:
    assert chosen(keepalive=5).warnings == (
        "settings.json: keepalive 5 s is not longer than the 60 s after which the proxy drops idle ones: now "
        "and then a request meets a closed one",
    )


def test_timeout_0_is_a_warning() -> None:
    assert chosen(timeout=0).warnings == ("settings.json: timeout 0 never ends a worker that hangs",)


def test_sync_with_threads_is_gthread_as_gunicorn_has_it() -> None:
    one = chosen(Workload.profile("io", "sync"), threads=4)
    assert (one.value("worker_class"), one.value("threads")) == ("gthread", 4)
    assert one.warnings == ("settings.json: Gunicorn runs sync with 4 threads as gthread",)
    assert chosen(Workload.profile("io", "sync"), threads=1).value("worker_class") == "sync"


def test_threads_have_no_effect_on_an_event_loop() -> None:
    one = chosen(Workload.profile("async"), threads=4)
    assert one.warnings == (
        "settings.json: threads 4 has no effect with asgi, whose workers run an event loop",
    )


def test_a_chosen_class_by_its_long_name() -> None:
    one = chosen(worker_class="uvicorn.workers.UvicornWorker")
    assert (one.value("worker_class"), one["worker_class"].source) == ("uvicorn", "settings.json")
    assert one.value("threads") == 1


def test_gevent_is_an_event_loop_behind_wsgi() -> None:
    one = chosen(Workload.profile("io"), worker_class="gunicorn.workers.ggevent.GeventWorker")
    loop = chosen(Workload.profile("io"), worker_class="asgi")
    assert (one.value("worker_class"), one.value("threads")) == ("gevent", 1)
    for name in (
        "workers",
        "worker_connections",
        "db_pool_size",
        "db_max_overflow",
        "keepalive",
        "memory_peak",
    ):
        assert one.value(name) == loop.value(name), name
    assert Workload.profile(worker_class="gevent").kind == "io"
    assert Workload.profile(worker_class="gevent").interface == "wsgi"


def test_nothing_is_preloaded_under_gevent() -> None:
    """What the master imports would be bound to the blocking library before the worker patches it."""
    roomy, tight = Budget.given("4G", 2), Budget.given("256M", 1)
    for budget in (roomy, tight):
        made = plan(budget, Workload.profile("io", "gevent", preload_safe=True))
        assert made.value("preload_app") is False
        assert made.value("freeze_heap") is False
    assert "patches the standard library" in made["preload_app"].why
    with pytest.raises(SizingError) as error:
        chosen(worker_class="gevent", preload_app=True)
    assert str(error.value) == (
        "settings.json: preload_app true does not go with worker_class gevent, whose workers patch the "
        "standard library before they import the app: allowed is false"
    )
    assert chosen(worker_class="gevent", preload_app=False).value("preload_app") is False


@pytest.mark.parametrize("other", ["gthread", "gevent"])
def test_fastapi_cannot_run_behind_wsgi(other: str) -> None:
    with pytest.raises(SizingError) as error:
        chosen(Workload.profile("async", framework="fastapi"), worker_class=other)
    assert str(error.value) == (
        f"worker_class {other!r} cannot run FastAPI, which speaks ASGI: allowed are asgi, uvicorn"
    )


def test_too_many_connections_are_a_warning() -> None:
    one = chosen(db_pool_size=20, db_max_overflow=10)
    assert one.warnings == (
        "8 workers in a deploy by overlap x 30 connections = 240, more than 100 connections (PostgreSQL's "
        "default) less 5 in reserve = 95: raise database_max_connections or put a pooler between",
    )


def test_preload_of_an_app_that_is_not_safe_is_a_warning() -> None:
    one = chosen(Workload.profile("io", preload_safe=False), preload_app=True)
    assert one.warnings == ("settings.json: preload_app on, but the app is not safe to preload",)


def test_cloud_runs_own_rules() -> None:
    one = chosen(memory="1G", cpus=4, runtime="cloudrun", uses_database=False)
    assert one.warnings == ("Cloud Run wants 2 GiB for 4 CPUs, and there are 1 GiB",)
    below = chosen(memory="512M", cpus=0.5, runtime="cloudrun", cloud_run_concurrency=80)
    assert (
        "settings.json: Cloud Run refuses a concurrency above 1 below one CPU, here 0.5 CPUs"
        in below.warnings
    )


def test_limits_of_a_persons_own() -> None:
    one = chosen(memory="4G", cpus=4, memory_limit="600M", cpu_limit=1)
    assert one.value("workers") == 1
    assert int(str(one.value("memory_max"))) < 600 * MIB
    assert chosen(reserve_memory="950M").verdict.level == "not viable"


def test_bind_is_handed_on_to_gunicorn() -> None:
    assert chosen(bind="0.0.0.0:80").gunicorn_settings()["bind"] == "0.0.0.0:80"
    assert "bind" not in chosen().gunicorn_settings()


def test_what_is_no_plan() -> None:
    with pytest.raises(SizingError, match=r"^not a plan: schema is None, this version reads 1$"):
        Plan.from_dict({})
    with pytest.raises(SizingError, match=r"^not a plan"):
        Plan.from_dict({"schema": 1})
