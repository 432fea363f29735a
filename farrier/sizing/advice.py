"""Where choices and limits do not go together: each warning is one line with the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import constants
from .database import threads_most, worker_count_in_deploy, workers_at_once
from .fields import Field
from .strategy import Fit, Problem, most_workers
from .timing import STOPPERS, grown, proxy_idle, room_to_grow
from .units import counted, format_bytes
from .workload import LOOP_CLASSES


def warnings_of(problem: Problem, one: Fit, fields: Mapping[str, Field]) -> tuple[str, ...]:
    """All warnings, the gravest first."""
    return (
        *_memory(problem, one),
        *_growth(problem, one, fields),
        *_times(problem, fields),
        *_concurrency(problem, one),
        *_database(problem, one, fields),
        *_cloud_run(problem, fields),
    )


def _memory(problem: Problem, one: Fit) -> Iterator[str]:
    share = problem.share
    if not one.fits:
        more, what = one.steady, counted(one.workers, "worker")
        if one.steady <= share.target:
            more, what = one.deploy, f"a deploy by {one.strategy}"
        names = ("workers", "threads", "worker_connections", "strategy")
        theirs = ", ".join(str(problem.settings[name].source) for name in names if name in problem.settings)
        yield (
            f"{theirs + ': ' if theirs else ''}{what}: {format_bytes(more)} needed, "
            f"{format_bytes(share.target)} there ({share.sentence()}, less "
            f"{constants.HEADROOM_SHARE:.0%} headroom)"
        )
    elif share.one_off and not one.beside.one_off:
        yield (
            f"no room for a one-off command such as a migration ({format_bytes(share.one_off)}) beside the "
            "app: give the host swap, or run it while the app is stopped"
        )
    if problem.settings.value("preload_app") is True and problem.workload.preload_safe is False:
        finding = problem.workload.preload_finding
        yield (
            f"{problem.settings['preload_app'].source}: preload_app on, but the app is not safe to preload"
            f"{f': {finding}' if finding else ''}"
        )


def _growth(problem: Problem, one: Fit, fields: Mapping[str, Field]) -> Iterator[str]:
    requests, jitter = _whole(fields, "max_requests"), _whole(fields, "max_requests_jitter")
    each, left = problem.workload.growth_per_1000, max(0, problem.share.available - one.deploy)
    if not one.fits:
        left = room_to_grow(problem, one)
    if not each or not requests or grown(problem, one, requests, jitter) <= left:
        return
    by = format_bytes(grown(problem, one, requests, jitter))
    yield (
        f"the app grows: {counted(one.workers, 'worker')} by {by} until all are replaced, and in a deploy "
        f"{format_bytes(left)} are free: find what leaks, or set max_requests below {requests}"
    )


def _times(problem: Problem, fields: Mapping[str, Field]) -> Iterator[str]:
    graceful, stop = _whole(fields, "graceful_timeout"), _whole(fields, "stop_timeout")
    if graceful >= stop:
        name = "graceful_timeout" if "graceful_timeout" in problem.settings else "stop_timeout"
        yield (
            f"{fields[name].source}: graceful_timeout {graceful} s is not below the {stop} s after which "
            f"{STOPPERS.get(problem.runtime, problem.runtime)} kills, so running requests are cut: "
            f"allowed is up to {max(1, stop - constants.STOP_MARGIN)} s"
        )
    silent = _whole(fields, "timeout")
    if "graceful_timeout" in problem.settings and problem.worker_class == "sync" and 0 < silent < graceful:
        yield (
            f"{fields['graceful_timeout'].source}: graceful_timeout {graceful} s is longer than timeout "
            f"{silent} s, after which a sync worker is ended with its request: allowed is up to {silent} s"
        )
    idle = proxy_idle(problem)
    if "keepalive" in problem.settings and _whole(fields, "keepalive") <= idle:
        yield (
            f"{fields['keepalive'].source}: keepalive {fields['keepalive'].value} s is not longer than the "
            f"{idle} s after which the proxy drops idle ones: now and then a request meets a closed one"
        )
    if fields["timeout"].value == 0:
        yield f"{fields['timeout'].source}: timeout 0 never ends a worker that hangs"


def _concurrency(problem: Problem, one: Fit) -> Iterator[str]:
    threads, workers = problem.settings.get("threads"), problem.settings.get("workers")
    if threads is not None and threads.value != 1:
        asked = problem.settings.value("worker_class", problem.workload.worker_class)
        if problem.worker_class in LOOP_CLASSES:
            loop = f"{problem.worker_class}, whose workers run an event loop"
            yield f"{threads.source}: threads {threads.value} has no effect with {loop}"
        elif asked == "sync":
            yield f"{threads.source}: Gunicorn runs sync with {threads.value} threads as gthread"
    if workers and problem.workload.kind == "cpu" and one.workers > 2 * max(1.0, problem.cpus):
        yield (
            f"{workers.source}: {one.workers} CPU-bound workers wait for each other on "
            f"{counted(problem.cpus, 'CPU')}"
        )


def _database(problem: Problem, one: Fit, fields: Mapping[str, Field]) -> Iterator[str]:
    connections = problem.connections
    if connections is None:
        return
    count = workers_at_once(one.strategy, one.workers, one.beside)
    during = f"in a deploy by {one.strategy}"
    if count > worker_count_in_deploy(one.strategy, one.workers):
        during = "while one is replaced"
    each = _whole(fields, "db_pool_size") + _whole(fields, "db_max_overflow")
    if problem.threads_keep_connections:
        each = max(each, one.slots)
    if count * each > connections.usable:
        yield (
            f"{counted(count, 'worker')} {during} x {counted(each, 'connection')} = "
            f"{count * each}, more than "
            f"{connections.sentence()}: raise database_max_connections or put a pooler between"
        )
    elif problem.worker_class == "gthread" and each < problem.connections_for(one.slots):
        most = counted(threads_most(problem.workload.framework, each), "thread")
        yield (
            f"{one.slots} threads of a worker share {counted(each, 'database connection')} and wait for each "
            f"other: allowed is up to {most}"
        )
    cut = " and ".join(_cut_by_database(problem, one))
    if cut and not connections.given:
        yield (
            f"assumed PostgreSQL's {connections.maximum} connections, which cut {cut}: set "
            "database_max_connections, or uses_database to false"
        )


def _cut_by_database(problem: Problem, one: Fit) -> Iterator[str]:
    wanted = problem.wish.workers
    if one.workers < wanted and most_workers(problem, one.footprint, by_memory=False) <= one.workers:
        yield f"{wanted} workers to {one.workers}"
    slots = problem.slots_wanted(one.workers)
    if problem.slots_by_database(one.strategy, one.workers, one.beside) <= one.slots < slots:
        yield f"{slots} threads to {one.slots}"


def _cloud_run(problem: Problem, fields: Mapping[str, Field]) -> Iterator[str]:
    if problem.runtime != "cloudrun":
        return
    cpus, there = counted(problem.cpus, "CPU"), format_bytes(problem.share.memory)
    for least, memory in constants.CLOUD_RUN_MEMORY_FOR_CPUS:
        if problem.cpus >= least:
            if problem.share.memory < memory:
                yield f"Cloud Run wants {format_bytes(memory)} for {cpus}, and there are {there}"
            break
    if problem.cpus < 1 and _whole(fields, "cloud_run_concurrency") > 1:
        source = fields["cloud_run_concurrency"].source
        yield f"{source}: Cloud Run refuses a concurrency above 1 below one CPU, here {cpus}"


def _whole(fields: Mapping[str, Field], name: str) -> int:
    return int(str(fields[name].value))
