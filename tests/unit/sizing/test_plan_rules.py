"""Rules that hold together for every machine, app and class, tried over a grid."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from farrier.sizing import GUNICORN_FIELDS, Budget, Plan, Settings, Workload, plan
from farrier.sizing.memory import share_of
from farrier.sizing.plan import ORDER

MIB = 2**20
MEMORIES = (64, 192, 256, 320, 512, 768, 1024, 2048, 8192, 262144)
CPUS = (0.5, 1, 2, 4, 64)
APPS = (
    ("io", "sync", None),
    ("io", "gthread", "flask"),
    ("io", "gthread", "django"),
    ("io", "uvicorn", "fastapi"),
    ("io", "gevent", "django"),
    ("cpu", "sync", None),
    ("cpu", "gthread", None),
    ("mixed", "gthread", "django"),
    ("async", "asgi", "django"),
    ("async", "uvicorn", "fastapi"),
    ("async", "gevent", None),
)
DATABASES: tuple[dict[str, object], ...] = (
    {},
    {"database_max_connections": 20},
    {"database_max_connections": 500, "database_memory": "128MiB"},
    {"uses_database": False},
)
RUNTIMES = ("systemd", "docker", "cloudrun")


def plans(**given: object) -> Iterator[tuple[str, Plan]]:
    grid = itertools.product(CPUS, APPS, DATABASES, RUNTIMES)
    for cpus, (kind, worker_class, framework), database, runtime in grid:
        load = Workload.profile(kind, worker_class, framework)
        settings = Settings.from_mapping({"runtime": runtime, **database, **given}, "test")
        for memory in MEMORIES:
            name = f"{memory} MiB, {cpus} CPUs, {kind} {worker_class} {framework}, {database}, {runtime}"
            yield name, plan(Budget.given(memory * MIB, cpus), load, settings)


@pytest.fixture(scope="module")
def grid() -> list[tuple[str, Plan]]:
    return list(plans())


def whole(one: Plan, name: str) -> int:
    value = one.value(name)
    assert isinstance(value, int), (name, value)
    return value


def slots(one: Plan) -> int:
    if one.value("worker_class") == "sync":
        return 1
    return whole(one, "worker_connections" if one.workload.is_async else "threads")


def test_a_viable_plan_never_takes_more_than_its_share(grid: list[tuple[str, Plan]]) -> None:
    viable = 0
    for name, one in grid:
        if one.verdict.level == "not viable":
            continue
        viable += 1
        share = share_of(one.budget, one.workload, one.settings)
        # without headroom, a part of the mapped files need not be in memory: 9 % of the app
        tight = one.workload.app_memory_bytes * 0.09 + 1 if "no headroom" in one.verdict.why else 0
        peak, in_deploy = whole(one, "memory_peak"), whole(one, "memory_deploy_peak")
        assert peak <= in_deploy <= share.available + tight, name
        assert share.available + share.reserved <= one.budget.memory_bytes, name
    assert viable > len(grid) / 2


def test_a_comfortable_plan_leaves_headroom_and_has_no_warning_about_memory(
    grid: list[tuple[str, Plan]],
) -> None:
    for name, one in grid:
        if one.verdict.level != "comfortable":
            continue
        share = share_of(one.budget, one.workload, one.settings)
        assert whole(one, "memory_deploy_peak") <= share.target < share.available, name
        assert one.value("strategy") != "queue", name
        assert not [text for text in one.warnings if "headroom" in text or "no room" in text], name


def test_limits_of_both_releases_stay_within_the_share(grid: list[tuple[str, Plan]]) -> None:
    for name, one in grid:
        share = share_of(one.budget, one.workload, one.settings)
        maximum, candidate = whole(one, "memory_max"), whole(one, "candidate_memory_max")
        if not share.deploys_here:
            assert maximum == candidate == one.budget.memory_bytes, name
            continue
        assert max(maximum, candidate) <= share.available, name
        assert whole(one, "memory_high") <= maximum, name
        if one.verdict.level == "comfortable":
            assert maximum >= max(whole(one, "memory_peak"), whole(one, "memory_deploy_peak")), name
            worker = one.workload.app_memory_bytes
            assert candidate >= whole(one, "workers") * worker * (0.1 if one.value("preload_app") else 0.8), (
                name
            )


def test_connections_of_a_deploy_stay_within_the_database(grid: list[tuple[str, Plan]]) -> None:
    for name, one in grid:
        each = whole(one, "db_pool_size") + whole(one, "db_max_overflow")
        if one.settings.value("uses_database") is False:
            assert each == 0, name
            continue
        maximum = int(str(one.settings.value("database_max_connections", 100))) - 5
        workers = whole(one, "workers")
        strategy, replacing = str(one.value("strategy")), one.value("recycling") == "replace-first"
        deploying = {"overlap": 2 * workers, "rolling": workers + 1, "queue": workers}[strategy]
        together = max(deploying, workers + replacing)
        gate = 2 if strategy == "queue" and one.value("gate_beside") else 0
        assert whole(one, "db_pool_size") >= 1, name
        assert together * each + gate <= maximum, name
        if one.workload.framework == "django" and one.value("worker_class") == "gthread":
            assert together * whole(one, "threads") <= maximum, name
            assert whole(one, "threads") <= each, name


def test_threads_share_few_enough_connections(grid: list[tuple[str, Plan]]) -> None:
    for name, one in grid:
        threads = whole(one, "threads")
        each = whole(one, "db_pool_size") + whole(one, "db_max_overflow")
        if one.verdict.level == "not viable" or threads == 1 or each == 0:
            continue
        assert each >= max(2, threads / 4), name
        if one.settings.value("database_max_connections") is None and one["threads"].bound_by == "database":
            assert any("set database_max_connections" in text for text in one.warnings), name


def test_times_follow_each_other(grid: list[tuple[str, Plan]]) -> None:
    for name, one in grid:
        assert whole(one, "graceful_timeout") < whole(one, "stop_timeout"), name
        assert whole(one, "graceful_timeout") <= whole(one, "timeout"), name
        assert whole(one, "timeout") >= 30, name
        idle = 600 if one.settings.value("runtime") == "cloudrun" else 60
        assert whole(one, "keepalive") > idle, name
        if one.settings.value("runtime") in ("docker", "cloudrun"):
            assert whole(one, "graceful_timeout") <= 8 and one.value("stop_timeout") == 10, name
        held = whole(one, "queue_seconds")
        assert (held > 0) == (one.value("strategy") == "queue"), name


def test_cloud_run_gets_what_the_workers_can_take(grid: list[tuple[str, Plan]]) -> None:
    for name, one in grid:
        at_once = whole(one, "workers") * slots(one)
        expected = 1 if one.budget.cpus < 1 else min(at_once, 1000)
        assert one.value("cloud_run_concurrency") == expected, name


def test_recycling_has_jitter_and_comes_sooner_when_memory_is_short(grid: list[tuple[str, Plan]]) -> None:
    for name, one in grid:
        requests = whole(one, "max_requests")
        assert not one.value("low_memory_mode") or requests == 250, name
        assert 0 < whole(one, "max_requests_jitter") <= requests / 2, name
        if one.verdict.level == "comfortable":
            assert requests == 1000, name


def test_more_memory_never_means_fewer_workers_or_a_worse_verdict() -> None:
    levels = ("not viable", "tight", "comfortable")
    sizes = [*range(64, 1400, 32), 2048, 4096, 16384]
    for (kind, worker_class, framework), cpus, runtime in itertools.product(
        APPS, (0.5, 1, 2, 8), ("systemd", "docker")
    ):
        load = Workload.profile(kind, worker_class, framework)
        settings = Settings.from_mapping({"runtime": runtime}, "test")
        made = [plan(Budget.given(size * MIB, cpus), load, settings) for size in sizes]
        workers = [whole(one, "workers") for one in made]
        assert workers == sorted(workers), (kind, worker_class, framework, cpus, runtime)
        verdicts = [levels.index(one.verdict.level) for one in made]
        assert verdicts == sorted(verdicts), (kind, worker_class, framework, cpus, runtime)


def test_minimum_and_recommended_are_what_they_say() -> None:
    for (kind, worker_class, framework), cpus in itertools.product(APPS, (0.5, 1, 4)):
        load = Workload.profile(kind, worker_class, framework)
        verdict = plan(Budget.given("64MiB", cpus), load).verdict
        assert verdict.level == "not viable"
        assert verdict.minimum_memory_bytes and verdict.recommended_memory_bytes
        assert plan(Budget.given(verdict.minimum_memory_bytes, cpus), load).verdict.level != "not viable"
        at_ease = plan(Budget.given(verdict.recommended_memory_bytes, cpus), load)
        assert at_ease.verdict.level == "comfortable"
        assert at_ease.verdict.minimum_memory_bytes == verdict.minimum_memory_bytes
        assert at_ease.verdict.recommended_memory_bytes == verdict.recommended_memory_bytes
        below = plan(Budget.given(verdict.recommended_memory_bytes * 3 // 4, cpus), load)
        assert below.verdict.level != "comfortable"


def test_every_field_has_its_reasons(grid: list[tuple[str, Plan]]) -> None:
    for name, one in grid:
        assert tuple(one.fields) == ORDER, name
        for field in one.fields.values():
            assert len(field.why) > 8 and field.bound_by and field.source == "plan", (name, field)
    names = set(ORDER)
    assert set(GUNICORN_FIELDS) <= names


def test_json_round_trip(grid: list[tuple[str, Plan]]) -> None:
    for name, one in grid[:: len(grid) // 60]:
        data = json.loads(json.dumps(one.to_dict()))
        assert Plan.from_dict(data) == one, name
        assert data["workers"] == data["fields"]["workers"]["value"] == one.value("workers"), name


def test_the_same_inputs_give_the_same_plan() -> None:
    load, budget = Workload.profile("io"), Budget.given("512MiB", 1)
    assert plan(budget, load).to_dict() == plan(budget, load, Settings()).to_dict()


def test_gunicorn_knows_every_name_and_takes_every_value() -> None:
    config = pytest.importorskip("gunicorn.config").Config()
    for memory, kind in itertools.product((256, 4096), ("io", "cpu", "async")):
        settings = plan(Budget.given(memory * MIB, 2), Workload.profile(kind)).gunicorn_settings()
        assert set(settings) == set(GUNICORN_FIELDS)
        for name, value in settings.items():
            if name != "worker_class":  # farrier.serve maps the short names
                config.set(name, value)
                assert config.settings[name].get() == value
