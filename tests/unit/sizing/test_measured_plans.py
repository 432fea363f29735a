"""Plans of measured apps: threads that keep the CPUs busy, recycling before growth hurts, 256 MB."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from farrier.sizing import Budget, Plan, Settings, Workload, plan, workload_of
from farrier.sizing.memory import share_of
from farrier.sizing.strategy import Problem, fit
from farrier.sizing.verdict import level_of

MIB = 2**20


def app(
    cpu: float = 0.00186, wait: float = 0.05, stated: dict[str, Any] | None = None, **given: Any
) -> Workload:
    """The 150 MB app, as measured: 1 ms of its own CPU is 1.86 with the server's part, one by one."""
    figures = {
        "schema": 1,
        "interface": "wsgi",
        "worker_class": "gthread",
        "boot_seconds": 1.2,
        "app_memory": 143 * MIB,
        "alone": {"workers": 2, "rss": 143 * MIB, "pss": 122 * MIB, "uss": 116 * MIB, "master_pss": 21 * MIB},
        "shared": {"workers": 2, "rss": 145 * MIB, "pss": 51 * MIB, "uss": 8 * MIB, "master_pss": 54 * MIB},
        "growth_per_1000": 0,
        "request_memory": 300 * 1024,
        "cpu_per_request": cpu,
        "wait_per_request": wait,
        "preload_safe": True,
    }
    return workload_of({**figures, **given}, stated)


def on(memory: str, cpus: float, load: Workload, **chosen: object) -> Plan:
    return plan(Budget.given(memory, cpus), load, Settings.from_mapping(chosen, "test"))


def shape(one: Plan) -> tuple[object, object, object]:
    return one.value("workers"), one.value("threads"), one.value("worker_class")


@pytest.mark.parametrize(
    ("cpus", "cpu", "wait", "expected"),
    [
        # the best that was measured: 1 x 36 on one CPU, 4 x 32 on two; mixed 1 x 6 and 2 x 6
        (1, 0.00186, 0.05, (1, 45, "gthread")),
        (2, 0.00186, 0.05, (4, 31, "gthread")),
        (0.5, 0.00186, 0.05, (1, 23, "gthread")),
        (1, 0.0076, 0.0228, (1, 7, "gthread")),
        (2, 0.0076, 0.0228, (2, 8, "gthread")),
        # a long wait: never more than 64 threads a worker and 256 a CPU
        (1, 0.001, 0.1, (4, 56, "gthread")),
        (1, 0.001, 5.0, (4, 64, "gthread")),
        # an app that computes only
        (1, 0.010, 0.0, (2, 1, "sync")),
        (2, 0.010, 0.0005, (4, 1, "sync")),
        (0.5, 0.010, 0.0, (2, 1, "sync")),
    ],
)
def test_threads_of_all_workers_together_keep_the_cpus_busy(
    cpus: float, cpu: float, wait: float, expected: tuple[object, ...]
) -> None:
    one = on("2G", cpus, app(cpu, wait), uses_database=False)
    assert shape(one) == expected
    assert one.verdict.level == "comfortable"


def test_the_reason_is_the_arithmetic() -> None:
    one = on("2G", 1, app())
    assert one["threads"].why == (
        "measured 1.86 ms CPU + 50 ms wait a request: 1 CPU x (1 + 26.9) x 1.6 keep the CPU busy"
    )
    assert one["threads"].bound_by == "cpu"
    assert one["workers"].why == "1 CPU: one process a CPU computes at a time, and threads do the rest"


def test_a_front_page_that_does_nothing_says_nothing_of_the_rest() -> None:
    assert shape(on("2G", 1, app(0.0012, 0.0))) == (1, 48, "gthread")
    # nor does the kind that the measurement itself gives such a page
    assert shape(on("2G", 1, app(0.0012, 0.0, kind="cpu"))) == (1, 48, "gthread")
    # a person knows better what the app is than its front page does
    assert shape(on("2G", 1, app(0.010, 0.0, {"kind": "io"}))) == (1, 48, "gthread")


def test_sync_workers_only_where_nobody_chose() -> None:
    computing: dict[str, Any] = {"cpu": 0.010, "wait": 0.0}
    assert shape(on("2G", 1, app(**computing), threads=2)) == (1, 2, "gthread")
    assert shape(on("2G", 1, app(**computing), worker_class="gthread")) == (1, 2, "gthread")
    assert shape(on("2G", 1, app(**computing, preload_safe=None))) == (1, 2, "gthread")
    assert shape(on("256M", 1, app(**computing), low_memory_mode=True)) == (1, 2, "gthread")
    assert shape(on("2G", 1, Workload.profile("cpu"))) == (1, 2, "gthread")
    why = on("2G", 1, app(**computing))["worker_class"].why
    assert why.startswith("measured to compute only (10 ms CPU, 0 ms wait a request)")


def test_an_app_that_only_computes_has_as_many_sync_workers_as_fit() -> None:
    # one sync worker answers no less than one with two threads (benchmarks/results/sizing)
    small = app(0.010, 0.0, app_memory=84 * MIB, shared=None)
    assert shape(on("2G", 1, small)) == (2, 1, "sync")
    assert shape(on("256M", 1, small)) == (1, 1, "sync")


@pytest.mark.parametrize("preload_app", [None, False])
@pytest.mark.parametrize("runtime", ["systemd", "docker"])
def test_sync_workers_make_no_verdict_worse(preload_app: bool | None, runtime: str) -> None:
    load, chosen = app(0.010, 0.0), {"runtime": runtime, "uses_database": False}
    if preload_app is not None:
        chosen["preload_app"] = preload_app
    before, recommended = 0, set()
    for memory in range(192, 1200, 16):
        one, threads = on(f"{memory}M", 1, load, **chosen), on(f"{memory}M", 1, load, threads=2, **chosen)
        level = LEVELS.index(one.verdict.level)
        assert level >= before and level >= LEVELS.index(threads.verdict.level), memory
        before = level
        recommended.add(one.verdict.recommended_memory_bytes)
        if preload_app is False:
            assert one.value("workers") == 1, memory
    assert len(recommended) == 1


def test_no_cpu_is_left_idle_for_want_of_room_for_a_replacement() -> None:
    load = app(0.010, 0.0, app_memory=84 * MIB, alone={"uss": 70 * MIB}, shared={"uss": 45 * MIB})
    one = on("280M", 2, load, runtime="docker")
    assert shape(one) == (2, 1, "sync")
    # the other one serves meanwhile
    assert one.value("recycling") == "retire-first"
    assert shape(on("280M", 1, load, runtime="docker")) == (1, 1, "sync")


def test_a_persons_workers_share_the_threads() -> None:
    assert shape(on("2G", 1, app(), workers=3)) == (3, 15, "gthread")
    assert shape(on("2G", 1, app(), threads=30)) == (2, 30, "gthread")
    assert shape(on("2G", 1, app(), workers=1, threads=3)) == (1, 3, "gthread")


def test_low_memory_mode_leaves_a_measured_app_what_fits() -> None:
    one = on("256M", 2, app(), runtime="docker")
    assert one.value("low_memory_mode") is True
    # of four workers two fit: they share out as many of the threads as a worker may have
    assert shape(one)[:2] == (2, 32)
    # a pool that the threads do not wait for
    assert int(str(one.value("db_pool_size"))) + int(str(one.value("db_max_overflow"))) == 8
    assert shape(on("256M", 2, app(), runtime="docker", low_memory_mode=True))[0] == 1


@pytest.mark.parametrize("runtime", ["systemd", "docker"])
def test_256_mb_runs_the_150_mb_app(runtime: str) -> None:
    one = on("256M", 1, app(), runtime=runtime)
    assert one.verdict.level == "tight"
    assert (one.value("workers"), one.value("preload_app"), one.value("freeze_heap")) == (1, True, True)
    assert int(str(one.value("threads"))) >= 2
    assert (one.value("malloc_trim_threshold"), one.value("malloc_arena_max")) == (128 * 1024, 1)
    assert on("2G", 1, app()).value("malloc_trim_threshold") is None
    if runtime == "docker":
        assert one.value("recycling") == "replace-first"


TIERS = (("256M", 1), ("512M", 1), ("768M", 1), ("1G", 1), ("2G", 2), ("4G", 4), ("8G", 8))


@pytest.mark.parametrize(("memory", "cpus"), TIERS)
@pytest.mark.parametrize("runtime", ["systemd", "docker"])
def test_an_app_that_leaks_1_mb_in_100_requests_is_recycled_before_the_memory_is_full(
    memory: str, cpus: float, runtime: str
) -> None:
    load = app(growth_per_1000=10 * 1000 * 1000)
    one = on(memory, cpus, load, runtime=runtime)
    requests, jitter, workers = (
        int(str(one.value(name))) for name in ("max_requests", "max_requests_jitter", "workers")
    )
    grown = workers * (requests + jitter) * 10 * 1000
    available = share_of(one.budget, one.workload, one.settings).available
    # on 256 MB the app runs with a part of its mapped files out of memory
    spare = (143 - 116) * MIB // 2 if "no headroom" in one.verdict.why else 0
    assert int(str(one.value("memory_deploy_peak"))) + grown <= available + spare
    assert 100 <= requests <= 10_000
    assert not [text for text in one.warnings if "grows" in text]
    assert one["max_requests"].why.startswith("measured to grow 9.5 MiB in 1,000 requests: ")


@pytest.mark.parametrize(
    ("growth", "requests"), [(0, 10_000), (1, 10_000), (None, 1000), (20 * MIB, 5818), (3 * 1024 * MIB, 100)]
)
def test_how_often_a_worker_is_recycled(growth: int | None, requests: int) -> None:
    # docker, 512 MiB: 500 available; one worker. 500 - steady, half of it, less a tenth for the jitter
    one = on("512M", 1, app(growth_per_1000=growth), runtime="docker")
    if growth == 20 * MIB:
        free = 500 - int(str(one.value("memory_peak"))) / MIB
        requests = int(free * 0.5 / 1.1 / 20 * 1000)
    assert one.value("max_requests") == requests
    leak = [text for text in one.warnings if text.startswith("the app grows: 1 worker by ")]
    assert bool(leak) is (growth == 3 * 1024 * MIB)
    if growth == 0:
        assert one["max_requests"].why.startswith("measured not to grow, so 10 times the usual number")


def test_a_small_part_queues_rather_than_do_with_few_threads() -> None:
    # a part of 217 MiB of a 512 MiB host: overlap would leave 5 threads, and half of them is enough for it
    load = app(app_memory=90 * MIB, alone={"uss": 72 * MIB}, shared=None, preload_safe=False)
    budget = Budget.given("512MiB", 1)
    chosen = Settings.from_mapping({"reserve_memory": (512 - 229) * MIB, "one_off_memory": 0}, "test")
    problem = Problem.of(budget, load, chosen)
    one = fit(problem)
    overlap = fit(
        Problem.of(budget, load, Settings.merged(Settings.from_mapping({"strategy": "overlap"}, "t"), chosen))
    )
    assert overlap.slots < 23
    assert (one.strategy, one.slots) == ("queue", 23)


LEVELS = ("not viable", "tight", "comfortable")


@pytest.mark.parametrize("preload_safe", [None, True, False])
@pytest.mark.parametrize("runtime", ["systemd", "docker"])
def test_more_memory_never_means_fewer_threads_in_all(preload_safe: bool | None, runtime: str) -> None:
    """Where the database cuts none: what it has divides by the workers, and leaves a rest."""
    small: dict[str, Any] = {"app_memory": 40 * MIB, "alone": {"uss": 25 * MIB}, "shared": {"uss": 5 * MIB}}
    loads = (
        app(preload_safe=preload_safe),
        app(0.0076, 0.0228, preload_safe=preload_safe),
        app(0.010, 0.0, preload_safe=preload_safe),
        app(preload_safe=preload_safe, **small),
        Workload.profile("io", framework="flask", preload_safe=preload_safe),
        Workload.profile("mixed", framework="django", preload_safe=preload_safe),
    )
    settings = Settings.from_mapping({"runtime": runtime, "uses_database": False}, "test")
    for load, cpus in itertools.product(loads, (0.5, 1, 2, 8)):
        before = (0, 0, 0)
        for memory in (*range(64, 1200, 16), 2048, 4096, 16384):
            problem = Problem.of(Budget.given(memory * MIB, cpus), load, settings)
            one = fit(problem)
            level = LEVELS.index(level_of(problem, one)[0])
            now = (one.workers, one.workers * one.slots, level)
            assert level == 0 or all(new >= old for new, old in zip(now, before, strict=True)), (
                load,
                cpus,
                memory,
                before,
                now,
            )
            before = now if level else before
