"""Deploy strategies, recycling and the gate: sizes worked out by hand from the model in docs/sizing.md.

The app here takes 100 MiB: 18 mapped files, and 82 a worker beside an arbiter of 22; preloaded, an arbiter of
82 and 15 a worker. Nothing is reserved, so 92 % of the memory is there to fill.
"""

from __future__ import annotations

import itertools

import pytest

from farrier.sizing import Budget, Plan, Settings, Workload, plan
from farrier.sizing.memory import footprint
from farrier.sizing.strategy import Fit, Problem, fit
from farrier.sizing.verdict import level_of

MIB = 2**20
BARE = {"reserve_memory": 0, "one_off_memory": 0, "low_memory_mode": False}


def app(kind: str = "io", worker_class: str = "sync", framework: str | None = None) -> Workload:
    return Workload.profile(kind, worker_class, framework, app_memory="100MiB", boot_seconds=2.0)


def on(memory: int, load: Workload, cpus: float = 1, **chosen: object) -> Plan:
    settings = Settings.from_mapping({**BARE, **chosen}, "test")
    return plan(Budget.given(memory * MIB, cpus), load, settings)


@pytest.mark.parametrize(
    ("preload", "strategy", "expected"),
    [
        # a gthread's slot is 0.75 MiB; four workers with two threads each, 83.5 or 16.5 MiB
        (False, "overlap", 18 + 2 * (22 + 4 * 83.5)),
        (False, "rolling", 18 + 2 * 22 + 5 * 83.5),
        (False, "queue", 18 + 22 + 4 * 83.5),
        (False, "reload", 18 + 22 + 4 * 83.5 + 82),
        (True, "overlap", 18 + 2 * (82 + 4 * 16.5)),
        (True, "rolling", 18 + 2 * 82 + 5 * 16.5),
        (True, "queue", 18 + 82 + 4 * 16.5),
        (True, "reload", 18 + 82 + 4 * 16.5 + 15),
    ],
)
def test_the_peak_of_each_strategy(preload: bool, strategy: str, expected: float) -> None:
    shape = footprint(app(worker_class="gthread"), "gthread", preload)
    assert shape.deploy(strategy, 4, 2) == expected * MIB


def test_a_gate_is_one_worker_with_two_requests_beside_the_app_at_work() -> None:
    shape = footprint(app(worker_class="gthread"), "gthread", preload=False)
    assert shape.trial(slots=10) == (22 + 82 + 2 * 0.75) * MIB
    assert shape.gate(4, 10) == (18 + 22 + 4 * (82 + 7.5) + 22 + 82 + 1.5) * MIB
    assert footprint(app(), "sync", preload=False).trial(slots=1) == (22 + 82 + 0.5) * MIB


@pytest.mark.parametrize(
    ("memory", "strategy", "recycling"),
    [
        (785, "overlap", "replace-first"),  # 92 %: 722.2; both whole: 18 + 2 x 22 + 8 x 82.5 = 722
        (784, "rolling", "replace-first"),  # 721.3
        (516, "rolling", "replace-first"),  # 474.7; 18 + 2 x 22 + 5 x 82.5 = 474.5
        (515, "queue", "replace-first"),  # 473.8
        (492, "queue", "replace-first"),  # 452.6; 18 + 22 + 4 x 82.5 + 82 for a replacement = 452
        (491, "queue", "retire-first"),  # 451.7
    ],
)
def test_from_overlap_by_rolling_to_queue_as_the_memory_shrinks(
    memory: int, strategy: str, recycling: str
) -> None:
    one = on(memory, app(), workers=4, preload_app=False)
    assert (one.value("workers"), one.value("strategy"), one["strategy"].bound_by) == (4, strategy, "memory")
    assert one.value("recycling") == recycling
    assert one.value("gate_beside") is (strategy != "queue")
    assert one.verdict.level == {"queue": "tight"}.get(strategy, "comfortable")


def test_why_rolling_why_a_queue_and_which_worker_comes_first() -> None:
    rolling = on(784, app(), workers=4, preload_app=False)
    assert rolling["strategy"].why == (
        "one worker at a time: 5 workers and both arbiters take 474 MiB of 721 MiB; both releases whole "
        "would take 722 MiB"
    )
    assert rolling["recycling"].why == (
        "82 MiB are kept for another worker, which serves before the old one ends"
    )
    assert rolling["max_requests"].why.endswith("; its replacement serves before it ends")
    queue = on(491, app(), workers=4, preload_app=False)
    assert queue["strategy"].why == (
        "even one worker at a time, 5 workers and both arbiters would take 474 MiB of 452 MiB"
    )
    assert queue["gate_beside"].why == (
        "one worker of a new release with two requests (104 MiB) beside the old one would make 474 MiB of "
        "452 MiB"
    )
    assert queue["recycling"].why == (
        "another worker beside it would make 452 MiB of 452 MiB; meanwhile 3 other workers take what comes in"
    )
    assert queue["max_requests"].why.endswith("; it ends before its replacement starts")
    alone = on(200, app(), workers=1, preload_app=False)
    assert alone["recycling"].why.endswith("; meanwhile the socket holds what comes in")


@pytest.mark.parametrize(
    ("memory", "workers", "strategy"),
    [
        # preloaded, 15.5 a worker with its request: a queue of n takes 18 + 82 + 15.5 n, and 15 for recycling
        (192, 3, "queue"),  # 92 %: 176.6; four by queue take 177
        (193, 4, "queue"),
        (282, 4, "queue"),  # 259.4; four by rolling take 18 + 2 x 82 + 5 x 15.5 = 259.5
        (283, 4, "rolling"),
        (349, 7, "rolling"),  # 321.1; eight by rolling take 321.5
        (350, 8, "rolling"),
        (467, 8, "rolling"),  # 429.6; both whole take 18 + 2 x 82 + 16 x 15.5 = 430
        (468, 8, "overlap"),
    ],
)
def test_up_to_half_of_the_workers_then_a_deploy_without_a_queue_then_the_rest(
    memory: int, workers: int, strategy: str
) -> None:
    one = on(memory, app(), cpus=2, preload_app=True)
    assert (one.value("workers"), one.value("strategy")) == (workers, strategy)
    if memory == 282:
        assert one["workers"].why.endswith(
            "; a deploy without a queue comes before one more, and would take 260 MiB of 259 MiB"
        )


def test_without_preload_a_deploy_that_holds_nothing_back_costs_one_worker_at_most() -> None:
    costs = set()
    for memory in range(160, 1600, 8):
        best = on(memory, app(), cpus=4, preload_app=False)
        queued = on(memory, app(), cpus=4, preload_app=False, strategy="queue")
        if best.value("strategy") != "queue":
            costs.add(int(str(queued.value("workers"))) - int(str(best.value("workers"))))
    assert costs == {0, 1}


@pytest.mark.parametrize(
    ("memory", "strategy", "connections", "gate", "candidate"),
    [
        # uvicorn, one worker, a connection 1 MiB. Both whole with 16: 18 + 2 x 22 + 2 x 98 = 258
        (281, "overlap", 16, True, (22 + 98) * 1.25),  # 92 %: 258.5
        (280, "queue", 29, True, 280 - 18 - 22 - 82 - 29),  # 257.6; with gate 18 + 22 + 82 + n + 106
        (275, "queue", 25, True, 275 - 18 - 22 - 82 - 25),  # 253
        (270, "queue", 44, False, 270 - 0.0),  # 248.4: the gate would leave 20 of 18 + 22 + 82 + n + 82
    ],
)
def test_a_gate_may_cost_half_of_the_connections(
    memory: int, strategy: str, connections: int, gate: bool, candidate: float
) -> None:
    one = on(memory, app("async", "uvicorn"), workers=1, preload_app=False)
    shape = (one.value("strategy"), one.value("worker_connections"), one.value("gate_beside"))
    assert shape == (strategy, connections, gate)
    if gate and strategy == "queue":
        trial = 22 + 82 + 2
        assert one.value("candidate_memory_max") == min(trial * 1.25, candidate) * MIB
        assert one.value("memory_deploy_peak") == (18 + 22 + 82 + connections + trial) * MIB
        assert one["worker_connections"].why.endswith("in 1 worker and a gate beside them")


@pytest.mark.parametrize(
    ("maximum", "threads", "gate", "pool"),
    [
        (11, 4, True, 4),  # 6 to use: two for the gate leave 4, not less than the least threads
        (10, 5, False, 5),  # 5 to use: two for the gate would leave 3
    ],
)
def test_a_gate_needs_connections_too(maximum: int, threads: int, gate: bool, pool: int) -> None:
    django = app("io", "gthread", "django")  # a connection for each thread, at least four threads
    one = on(4096, django, database_max_connections=maximum)
    assert (one.value("workers"), one.value("strategy"), one["strategy"].bound_by) == (1, "queue", "database")
    assert (one.value("threads"), one.value("db_pool_size"), one.value("gate_beside")) == (
        threads,
        pool,
        gate,
    )
    assert one["gate_beside"].bound_by == ("memory" if gate else "database")
    # two workers at once would need 8
    assert (one.value("recycling"), one["recycling"].bound_by) == ("retire-first", "database")
    assert one["recycling"].why.startswith("no connections for 2 workers at once; ")
    assert (
        one["strategy"].why
        == f"even one worker at a time would need 2 workers x 4 of {maximum - 5} connections"
    )


def test_a_replacement_needs_connections_too() -> None:
    # four workers and one that takes over: 10 // 5, not 10 // 4
    one = on(515, app(), workers=4, preload_app=False, database_max_connections=15)
    assert (one.value("strategy"), one.value("recycling")) == ("queue", "replace-first")
    assert one["db_pool_size"].why == (
        "15 connections (yours) less 5 in reserve = 10; 5 workers while one is replaced leave 2 a worker, of "
        "which it uses 1"
    )
    mine = on(515, app(), workers=4, preload_app=False, database_max_connections=15, db_pool_size=3)
    assert mine.warnings[0].startswith("5 workers while one is replaced x 3 connections = 15, more than 15 ")


def test_rolling_shares_the_connections_among_one_worker_more() -> None:
    one = on(8192, app("io", "gthread", "django"), cpus=8)
    # 95 connections, at least 4 a worker: both whole would do for 11 workers, 16 + 1 get 5 each
    assert (one.value("workers"), one.value("strategy"), one["strategy"].bound_by) == (
        16,
        "rolling",
        "database",
    )
    assert (one.value("threads"), one.value("db_pool_size")) == (5, 5)
    assert one["strategy"].why.endswith("; both releases whole would need 32 workers x 4 of 95 connections")
    # a pool: 95 // 32 = 2 connections carry 8 threads, 95 // 17 = 5 carry 20
    pooled = on(8192, app("io", "gthread", "flask"), cpus=8)
    assert (pooled.value("workers"), pooled.value("threads"), pooled.value("strategy")) == (16, 20, "rolling")
    assert pooled["strategy"].why.endswith(
        "; both releases whole would leave a worker 8 threads instead of 20"
    )
    assert pooled["strategy"].bound_by == "database"


def test_overlap_gives_way_to_rolling_for_connections_where_it_leaves_few() -> None:
    # two workers: both whole 18 + 2 x 22 + 4 x (82 + n), rolling 18 + 2 x 22 + 3 x (82 + n)
    few = on(560, app("async", "uvicorn"), preload_app=False)  # 92 %: 515.2; 31 or 69
    assert (few.value("strategy"), few.value("worker_connections")) == ("rolling", 69)
    half = on(600, app("async", "uvicorn"), preload_app=False)  # 552; 40 or 81
    assert (half.value("strategy"), half.value("worker_connections")) == ("rolling", 81)
    enough = on(610, app("async", "uvicorn"), preload_app=False)  # 561.2; 42 or 84
    assert (enough.value("strategy"), enough.value("worker_connections")) == ("overlap", 42)


@pytest.mark.parametrize(
    ("memory", "strategy", "expected"),
    [
        # four workers with a request are 22 + 4 x 82.5 = 352, a quarter more 440
        (785, "overlap", 352),  # 785 - 452 at work with a replacement would be less than it takes
        (1200, "overlap", 440),
        (516, "rolling", 440),
        (515, "queue", 440),
        (400, "queue", 400),
    ],
)
def test_what_the_next_release_may_take_until_it_is_promoted(
    memory: int, strategy: str, expected: int
) -> None:
    one = on(memory, app(), workers=4, preload_app=False)
    assert one.value("strategy") == strategy
    assert one.value("candidate_memory_max") == expected * MIB


@pytest.mark.parametrize(("preload", "seconds"), [(False, 0.5 + 0.5 + 4 * 2), (True, 0.5 + 0.5 + 2)])
def test_the_wait_of_a_queue_is_the_end_of_the_old_and_the_boot_of_the_new(
    preload: bool, seconds: int
) -> None:
    one = on(515, app(), workers=4, preload_app=preload, strategy="queue")
    assert one.value("queue_seconds") == seconds
    assert on(785, app(), workers=4, preload_app=False).value("queue_seconds") == 0


def test_reload_is_a_persons_choice_and_takes_one_worker_more() -> None:
    one = on(516, app(), workers=4, preload_app=False, strategy="reload")
    assert one.value("memory_deploy_peak") == (18 + 22 + 4 * 82.5 + 82) * MIB
    assert one["strategy"].why.startswith("set by test; the plan: rolling, ")
    assert (one.value("queue_seconds"), one.value("gate_beside")) == (0, False)
    # 95 connections for five workers, each with more threads than that
    pooled = on(8192, app("io", "gthread", "django"), workers=4, threads=32, strategy="reload")
    assert pooled.value("db_pool_size") == 95 // 5


def test_each_release_in_a_container_of_its_own() -> None:
    one = on(600, app(), workers=2, runtime="docker")
    assert (one.value("strategy"), one["strategy"].bound_by) == ("overlap", "runtime")
    assert one.value("gate_beside") is True
    assert one.value("memory_deploy_peak") == one.value("memory_peak")


APPS = (
    ("io", "sync", None),
    ("io", "gthread", "flask"),
    ("io", "gthread", "django"),
    ("io", "uvicorn", "fastapi"),
    ("cpu", "gthread", None),
    ("mixed", "gthread", "django"),
    ("async", "asgi", "django"),
    ("async", "gevent", None),
)
DATABASES: tuple[dict[str, object], ...] = ({}, {"database_max_connections": 20}, {"uses_database": False})


@pytest.mark.parametrize("preload_safe", [None, True, False])
def test_more_memory_never_means_fewer_workers_or_a_worse_verdict_on_a_dense_grid(
    preload_safe: bool | None,
) -> None:
    levels = ("not viable", "tight", "comfortable")
    seen: set[tuple[str, str]] = set()
    for (kind, worker_class, framework), cpus, database in itertools.product(
        APPS, (0.5, 1, 2, 4, 8), DATABASES
    ):
        if preload_safe and worker_class == "gevent":
            continue
        load = Workload.profile(kind, worker_class, framework, preload_safe=preload_safe)
        settings = Settings.from_mapping(database, "test")
        before = (0, 0)
        for memory in (*range(64, 1600, 8), 2048, 3072, 4096, 8192, 16384, 65536):
            problem = Problem.of(Budget.given(memory * MIB, cpus), load, settings)
            one: Fit = fit(problem)
            now = (one.workers, levels.index(level_of(problem, one)[0]))
            assert now[0] >= before[0] and now[1] >= before[1], (
                kind,
                worker_class,
                framework,
                cpus,
                database,
                memory,
            )
            before = now
            seen.add((one.strategy, str(one.preload)))
    assert {strategy for strategy, _ in seen} == {"overlap", "rolling", "queue"}
