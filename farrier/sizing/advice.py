"""Where choices and limits do not go together: each warning is one line with the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import constants
from .database import worker_count_in_deploy
from .fields import Field
from .strategy import Fit, Problem
from .units import format_bytes, format_cpus
from .workload import ASYNC_CLASSES


def warnings_of(problem: Problem, one: Fit, fields: Mapping[str, Field]) -> tuple[str, ...]:
    """All warnings, the gravest first."""
    return (
        *_memory(problem, one),
        *_times(problem, fields),
        *_concurrency(problem, one),
        *_database(problem, one, fields),
        *_cloud_run(problem, fields),
    )


def _memory(problem: Problem, one: Fit) -> Iterator[str]:
    share = problem.share
    if not one.fits:
        chosen = [name for name in ("workers", "threads", "worker_connections") if name in problem.settings]
        who = ", ".join(f"{problem.settings[name].source}={problem.settings[name].value}" for name in chosen)
        more = one.deploy if one.steady <= share.target else one.steady
        what = "a deploy" if one.steady <= share.target else f"{one.workers} worker(s)"
        yield (
            f"{who + ': ' if who else ''}{what} need {format_bytes(more)} of the {format_bytes(share.target)} "
            f"there are ({share.sentence()}, less {constants.HEADROOM_SHARE:.0%} headroom)"
        )
    elif share.one_off and not one.one_off_fits:
        yield (
            f"a one-off command such as a migration ({format_bytes(share.one_off)}) has no room beside the app: "
            "give the host swap, or run it while the app is stopped"
        )
    if problem.settings.value("preload_app") is True and problem.workload.preload_safe is False:
        yield f"{problem.settings['preload_app'].source}: the app was found not safe to preload"


def _times(problem: Problem, fields: Mapping[str, Field]) -> Iterator[str]:
    graceful, stop = _whole(fields, "graceful_timeout"), _whole(fields, "stop_timeout")
    if graceful >= stop:
        yield (
            f"{fields['graceful_timeout'].source}: graceful_timeout {graceful} s is not below the {stop} s after "
            f"which {problem.runtime} kills: running requests are cut; allowed is up to {stop - constants.STOP_MARGIN}"
        )
    idle = problem.settings.value("proxy_keepalive", constants.PROXY_KEEPALIVE)
    if "keepalive" in problem.settings and _whole(fields, "keepalive") <= int(str(idle)):
        yield (
            f"{fields['keepalive'].source}: keepalive {fields['keepalive'].value} s is not longer than the "
            f"proxy's idle time of {idle} s: now and then a request meets a closing connection"
        )
    if fields["timeout"].value == 0:
        yield f"{fields['timeout'].source}: timeout 0 never ends a worker that hangs"


def _concurrency(problem: Problem, one: Fit) -> Iterator[str]:
    threads = problem.settings.get("threads")
    chosen = problem.settings.value("worker_class", problem.workload.worker_class)
    if threads is not None and threads.value != 1:
        if problem.worker_class in ASYNC_CLASSES:
            yield f"{threads.source}: threads {threads.value} has no effect with {problem.worker_class}, which runs an event loop"
        elif chosen == "sync":
            yield f"{threads.source}: Gunicorn runs sync with {threads.value} threads as gthread"
    if (
        "workers" in problem.settings
        and problem.workload.kind == "cpu"
        and one.workers > 2 * max(1, problem.cpus)
    ):
        yield (
            f"{problem.settings['workers'].source}: {one.workers} CPU-bound workers on "
            f"{format_cpus(problem.cpus)} CPUs wait for each other"
        )


def _database(problem: Problem, one: Fit, fields: Mapping[str, Field]) -> Iterator[str]:
    if problem.connections is None:
        return
    count = worker_count_in_deploy(one.strategy, one.workers)
    each = _whole(fields, "db_pool_size") + _whole(fields, "db_max_overflow")
    if problem.workload.framework == "django" and problem.worker_class == "gthread":
        each = max(each, one.slots)
    if count * each > problem.connections.usable:
        yield (
            f"{count} workers of a deploy by {one.strategy} x {each} connections = {count * each}, and there are "
            f"{problem.connections.sentence()}: raise database_max_connections or put a pooler between"
        )
    elif (
        one.workers < problem.wish.workers
        and not problem.connections.given
        and _held_by_database(problem, one)
    ):
        yield (
            f"an assumed database of {problem.connections.maximum} connections holds the workers at {one.workers} of "
            f"{problem.wish.workers}: set database_max_connections, or uses_database=0"
        )


def _held_by_database(problem: Problem, one: Fit) -> bool:
    return not problem.database_allows(one.strategy, one.workers + 1)


def _cloud_run(problem: Problem, fields: Mapping[str, Field]) -> Iterator[str]:
    if problem.runtime != "cloudrun":
        return
    for cpus, memory in constants.CLOUD_RUN_MEMORY_FOR_CPUS:
        if problem.cpus >= cpus:
            if problem.share.memory < memory:
                yield f"Cloud Run wants {format_bytes(memory)} for {format_cpus(problem.cpus)} CPUs; there are {format_bytes(problem.share.memory)}"
            break
    if problem.cpus < 1 and _whole(fields, "cloud_run_concurrency") > 1:
        yield f"{fields['cloud_run_concurrency'].source}: Cloud Run refuses a concurrency above 1 below one CPU"


def _whole(fields: Mapping[str, Field], name: str) -> int:
    return int(str(fields[name].value))
