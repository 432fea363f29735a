"""Figures from practice and from measurements that the plan has to meet."""

from __future__ import annotations

import pytest

from farrier.sizing import Budget, Plan, Settings, Workload, plan
from farrier.sizing.memory import footprint

MIB = 2**20
DOCKER = Settings.from_mapping({"runtime": "docker"}, "test")


def on(memory: str, cpus: float, load: Workload, **chosen: object) -> Plan:
    return plan(Budget.given(memory, cpus), load, Settings.from_mapping(chosen, "test"))


@pytest.mark.parametrize(
    ("memory", "cpus", "workers", "loglevel"),
    [
        ("1G", 1, 2, "warning"),
        ("2G", 2, 2, "warning"),
        ("4G", 4, 6, "info"),
        ("8G", 8, 12, "warning"),
        ("16G", 12, 12, "warning"),
    ],
)
def test_async_django_as_practice_has_it(memory: str, cpus: int, workers: int, loglevel: str) -> None:
    one = on(memory, cpus, Workload.profile("async", framework="django"))
    assert (one.value("workers"), one.value("loglevel")) == (workers, loglevel)
    assert one["workers"].bound_by == "practice"


def test_where_practice_does_not_fit_the_plan_says_what_the_next_worker_would_need() -> None:
    one = on("512M", 2.5, Workload.profile("async", framework="django"))
    assert one.value("workers") == 2
    assert one["workers"].bound_by == "memory"
    assert one["workers"].why.startswith("4 wanted (event loops on 2.5 CPUs: from practice")
    # rolling, preloaded: 19.8 mapped + 2 x 90.2 arbiters + 4 x (16.5 + 16 x 2)
    assert one["workers"].why.endswith("; 3 need 394 MiB with a deploy and a one-off command, of 364 MiB")
    assert (one.value("strategy"), one.verdict.level) == ("rolling", "tight")
    held = on("640M", 2.5, Workload.profile("async", framework="django", preload_safe=False))
    # rolling: 19.8 mapped + 2 x 22 arbiters + 4 x (90.2 + 16 x 2)
    assert (held.value("workers"), held.value("strategy")) == (2, "rolling")
    assert "; 3 need 553 MiB" in held["workers"].why


def test_threads_for_an_io_bound_app_on_512_mb_and_one_cpu() -> None:
    # measured: one worker with 40 threads 740 req/s, two with 20 each 676, gunicorn's default 19
    for one in (
        on("512M", 1, Workload.profile("io", framework="flask")),
        on("512M", 1, Workload.profile("io", app_memory="148M"), runtime="docker"),
    ):
        assert (one.value("workers"), one.value("worker_class")) == (1, "gthread")
        assert (one.value("threads"), one.value("recycling")) == (48, "replace-first")
        assert one.verdict.level == "comfortable"


@pytest.mark.parametrize("cpus", [1, 2, 4, 16])
def test_cpu_bound_one_worker_a_cpu_with_few_threads(cpus: int) -> None:
    one = on("16G", cpus, Workload.profile("cpu"))
    assert (one.value("workers"), one.value("threads")) == (cpus, 2)


@pytest.mark.parametrize(
    ("worker_class", "expected"),
    [
        ("sync", (4, 8, 16)),
        ("gthread", (1, 4, 8)),
        ("asgi", (2, 2, 6)),
        ("uvicorn", (2, 2, 6)),
        ("gevent", (2, 2, 6)),
    ],
)
def test_workers_of_an_io_bound_app_on_1_2_and_4_cpus(worker_class: str, expected: tuple[int, ...]) -> None:
    load = Workload.profile("io", worker_class)
    plans = [on("16G", cpus, load, database_max_connections=200) for cpus in (1, 2, 4)]
    assert tuple(one.value("workers") for one in plans) == expected
    if worker_class == "gthread":  # as many in all for each CPU
        assert [one.value("threads") for one in plans] == [48, 24, 24]


def test_half_a_cpu() -> None:
    one = on("512M", 0.5, Workload.profile("io"))
    assert (one.value("workers"), one.value("threads")) == (1, 48)
    assert one.value("cloud_run_concurrency") == 1
    assert on("512M", 0.5, Workload.profile("cpu")).value("workers") == 1
    run = on("512M", 0.5, Workload.profile("io"), runtime="cloudrun")
    assert (run.value("workers"), run.value("threads"), run["workers"].bound_by) == (1, 1, "cloud run")


@pytest.mark.parametrize(
    ("preload", "measured_alone", "measured_overlap"), [(False, 481, 958), (True, 155, 306)]
)
def test_the_memory_model_errs_a_little_to_the_safe_side(
    preload: bool, measured_alone: int, measured_overlap: int
) -> None:
    # measured: four workers of a 148 MB app at rest; 0.935 of it stayed shared
    load = Workload.profile("io", app_memory="148MiB", shared_fraction=0.935)
    shape = footprint(load, "gthread", preload)
    alone, overlap = shape.steady(4, 0, False) / MIB, shape.deploy("overlap", 4, 0) / MIB
    assert measured_alone <= alone <= measured_alone * 1.25
    assert measured_overlap <= overlap <= measured_overlap * 1.25


def test_256_mb_with_a_148_mb_app_takes_two_workers_only_by_preloading() -> None:
    # measured: 2 * CPU + 1 workers never came up; two with preload and a frozen heap use 136 MB
    load = Workload.profile("io", "sync", app_memory="148MB")
    one = on("256M", 1, load, runtime="docker", low_memory_mode=False)
    assert (one.value("workers"), one.value("preload_app"), one.value("freeze_heap")) == (2, True, True)
    without = on("256M", 1, load, runtime="docker", low_memory_mode=False, preload_app=False)
    assert without.value("workers") == 1


def test_low_memory_mode_is_chosen_below_512_mb_unless_refused() -> None:
    load = Workload.profile("io", framework="flask")
    for memory, expected in (("256M", True), ("511M", True), ("512M", False), ("8G", False)):
        assert on(memory, 1, load).value("low_memory_mode") is expected
    low = on("384M", 1, load)
    assert (low.value("workers"), low.value("timeout"), low.value("max_requests")) == (1, 120, 250)
    assert low.value("loglevel") == "warning"
    pool = low.value("db_pool_size"), low.value("db_max_overflow")
    assert pool == (2, 1)
    refused = on("384M", 1, load, low_memory_mode=False)
    assert refused.value("low_memory_mode") is False
    assert (low.value("threads"), refused.value("threads")) == (8, 48)
    asked = on("8G", 4, load, low_memory_mode=True)
    assert asked.value("workers") == 1
    assert asked.verdict.level == "comfortable"


def test_a_nominal_512_mb_host_is_not_low_on_memory() -> None:
    # what a kernel leaves of 512 MB in MemTotal, and of 256 MB
    load = Workload.profile("io", framework="flask")
    assert plan(Budget.given(465 * MIB, 1, scope="host"), load).value("low_memory_mode") is False
    tiny = plan(Budget.given(220 * MIB, 1, scope="host"), load)
    assert tiny.value("low_memory_mode") is True
    assert tiny.verdict.level == "tight"


@pytest.mark.parametrize(
    ("memory", "cpus", "serves", "users"),
    [
        ("256M", 1, "personal", "1-3"),
        ("512M", 1, "small team", "5-10"),
        ("1G", 1, "medium", "10-50"),
        ("2G", 2, "medium", "10-50"),
        ("4G", 2, "large", "50+"),
        ("64G", 0.5, "small team", "5-10"),
    ],
)
def test_for_whom_a_tier_is(memory: str, cpus: float, serves: str, users: str) -> None:
    verdict = on(memory, cpus, Workload.profile("io", framework="flask")).verdict
    assert (verdict.serves, verdict.users) == (serves, users)


def test_64_mb_is_not_viable_and_says_what_is() -> None:
    verdict = on("64M", 1, Workload.profile("io")).verdict
    assert verdict.level == "not viable"
    assert verdict.minimum_memory_bytes == 224 * MIB
    assert verdict.why.endswith(
        "; the smallest size that is: 224 MiB; 106 MiB are kept for system, proxy, log shipper: set "
        "reserve_memory where they use less or do not run"
    )


def test_what_is_kept_for_others_is_named_where_it_is_why_nothing_runs() -> None:
    django, postgres = Workload.profile("io", framework="django"), {"database_memory": "48M"}
    why = on("224M", 1, django, **postgres).verdict.why
    assert "kept for system, proxy, log shipper, database: set reserve_memory and database_memory " in why
    assert "kept for" not in on("128M", 1, django, reserve_memory="32M", **postgres).verdict.why
    container = plan(Budget.given("64M", 1, "container"), django)
    assert container.verdict.level == "not viable" and "kept for" not in container.verdict.why


def test_a_huge_app_has_no_size_that_would_do() -> None:
    verdict = on("1G", 1, Workload.profile("io", app_memory="3T")).verdict
    assert (verdict.level, verdict.minimum_memory_bytes, verdict.recommended_memory_bytes) == (
        "not viable",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("framework", "worker_class", "age", "checks"),
    [
        ("django", "gthread", 600, True),
        ("django", "sync", 600, True),
        ("django", "asgi", 0, False),
        ("django", "uvicorn", 0, False),
        ("django", "gevent", 0, False),
    ],
)
def test_djangos_connections(framework: str, worker_class: str, age: int, checks: bool) -> None:
    one = on("2G", 2, Workload.profile("io", worker_class, framework))
    assert (one.value("db_conn_max_age"), one.value("db_conn_health_checks")) == (age, checks)


def test_a_database_on_the_same_host_takes_its_part() -> None:
    load = Workload.profile("async", framework="django")
    alone, beside = on("1G", 4, load), on("1G", 4, load, database_memory="512M")
    assert int(str(alone.value("workers"))) > int(str(beside.value("workers")))
    assert "512 MiB database" in beside["memory_max"].why


def test_a_unit_with_a_limit_leaves_the_rest_of_the_machine_to_others() -> None:
    load = Workload.profile("io", framework="flask")
    budget = Budget(700 * MIB, 1.0, "memory.max", "CPU affinity", 4096 * MIB, scope="container")
    assert plan(budget, load).value("memory_max") == 700 * MIB
    tight = Budget(700 * MIB, 1.0, "memory.max", "CPU affinity", 720 * MIB, scope="container")
    narrow = plan(tight, load, Settings.from_mapping({"runtime": "systemd"}, "test"))
    assert int(str(narrow.value("memory_max"))) < 700 * MIB - 50 * MIB


@pytest.mark.parametrize(("preload_safe", "preloaded"), [(True, True), (None, False), (False, False)])
def test_preload_at_ease_only_where_it_is_known_to_be_safe(
    preload_safe: bool | None, preloaded: bool
) -> None:
    one = on("4G", 2, Workload.profile("io", preload_safe=preload_safe))
    assert one.value("preload_app") is one.value("freeze_heap") is preloaded


def test_preload_unknown_is_tried_where_it_buys_a_worker_but_not_for_overlap_alone() -> None:
    fastapi = Workload.profile("async", "uvicorn", "fastapi")
    never = Workload.profile("async", "uvicorn", "fastapi", preload_safe=False)
    one, without = on("512M", 2.5, fastapi), on("512M", 2.5, never)
    assert (one.value("workers"), one.value("preload_app")) == (4, True)
    assert (without.value("workers"), without.value("preload_app")) == (2, False)
    # two workers fit either way, preloaded by overlap, else by rolling
    for preload_safe, expected in ((None, (False, "rolling")), (True, (True, "overlap"))):
        loop = on("512M", 1, Workload.profile("async", "uvicorn", "fastapi", preload_safe=preload_safe))
        assert loop.value("workers") == 2
        assert (loop.value("preload_app"), loop.value("strategy")) == expected


@pytest.mark.parametrize(
    ("cpus", "workers", "threads", "connections"),
    [(1, 1, 48, 20), (2, 4, 24, 11), (4, 8, 24, 10), (8, 16, 20, 5)],
)
def test_workers_then_threads_give_way_to_a_database_of_100_connections(
    cpus: int, workers: int, threads: int, connections: int
) -> None:
    one = on("8G", cpus, Workload.profile("io"))
    pool = int(str(one.value("db_pool_size"))) + int(str(one.value("db_max_overflow")))
    assert (one.value("workers"), one.value("threads"), pool) == (workers, threads, connections)
    assert one.verdict.level == "comfortable"
    told = on("8G", cpus, Workload.profile("io"), database_max_connections=100)
    assert told.value("workers") == workers
    assert told.warnings == ()
    cut = [f"24 threads to {threads}"] * (threads < 24)
    assert one.warnings == (
        (
            f"assumed PostgreSQL's 100 connections, which cut {' and '.join(cut)}: set "
            "database_max_connections, or uses_database to false",
        )
        if cut
        else ()
    )


def test_djangos_threads_are_cut_to_the_assumed_connections_with_a_warning() -> None:
    one = on("2G", 2, Workload.profile("io", framework="django"))
    assert (one.value("workers"), one.value("threads"), one["threads"].bound_by) == (4, 19, "database")
    assert one.warnings[0].startswith("assumed PostgreSQL's 100 connections, which cut 24 threads to 19:")
    assert on("2G", 2, Workload.profile("io", framework="django"), uses_database=False).warnings == ()


def test_threads_that_wait_for_connections_are_not_comfortable() -> None:
    one = on("8G", 2, Workload.profile("io"), workers=1, threads=32, database_max_connections=10)
    assert one.verdict.level == "tight"
    assert one.warnings == (
        "32 threads of a worker share 5 database connections and wait for each other: "
        "allowed is up to 20 threads",
    )
    for framework in ("django", None):  # one connection, so one thread, whatever the memory
        for memory in ("512M", "8G"):
            narrow = on(memory, 1, Workload.profile("io", framework=framework), database_max_connections=6)
            assert (narrow.value("workers"), narrow.value("threads")) == (1, 1)
            assert narrow.verdict.level == "tight"
    few = on("8G", 2, Workload.profile("io"), db_pool_size=1, db_max_overflow=0)
    assert few.warnings[0].endswith(
        "share 1 database connection and wait for each other: allowed is up to 1 thread"
    )


def test_low_memory_mode_keeps_no_more_django_threads_than_connections() -> None:
    one = on("448M", 1, Workload.profile("io", framework="django"))
    assert one.value("low_memory_mode") is True
    assert (one.value("threads"), one.value("db_pool_size"), one.value("db_max_overflow")) == (3, 3, 0)
    assert (
        on("448M", 1, Workload.profile("io", framework="django"), uses_database=False).value("threads") == 8
    )


def test_a_queue_for_want_of_connections_says_so() -> None:
    one = on("8G", 1, Workload.profile("io", framework="flask"), database_max_connections=8)
    assert (one.value("workers"), one.value("strategy"), one["strategy"].bound_by) == (1, "queue", "database")
    assert one.verdict.why.startswith("no connections to exchange even one worker at a time")
    assert one.value("timeout") == 30


def test_development() -> None:
    one = on("4G", 4, Workload.profile("io"), environment="development")
    expected = {"workers": 2, "max_requests": 0, "preload_app": False, "reload": True, "loglevel": "info"}
    assert {name: one.value(name) for name in expected} == expected
    assert one.value("max_requests_jitter") == 0
    assert on("4G", 4, Workload.profile("io")).value("reload") is False


def test_a_slow_boot_stretches_the_timeout() -> None:
    one = on("2G", 0.5, Workload.profile("async", framework="django", boot_seconds=8))
    assert one.value("timeout") == 96  # 2 workers x 8 s / 0.5 CPU = 32 s, three times
    assert one["timeout"].bound_by == "boot time"


def test_no_room_in_shm_leaves_gunicorns_default() -> None:
    assert on("1G", 1, Workload.profile("io")).value("worker_tmp_dir") == "/dev/shm"
    assert on("1G", 1, Workload.profile("io"), shm_memory=0).value("worker_tmp_dir") is None


def test_a_huge_box_is_held_by_the_database_and_says_so() -> None:
    one = on("256G", 64, Workload.profile("io"))
    assert one["workers"].bound_by == "database"
    assert one.value("timeout") == 30
    assert any("set database_max_connections" in text for text in one.warnings)
    told = on("256G", 64, Workload.profile("io"), database_max_connections=2100)
    assert told.value("workers") == 128
    assert told.warnings == ()
