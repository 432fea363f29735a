"""The processes: how many, of which class, and how they start."""

from __future__ import annotations

from . import constants
from .concurrency import milliseconds
from .database import Connections
from .fields import Field
from .sheet import Sheet
from .strategy import Fit, Problem, most_workers, workers_before_queue
from .timing import pressure
from .units import counted, format_bytes, format_cpus
from .workload import ASGI_CLASSES, LOOP_CLASSES

Answer = tuple[int, str, str]


def fill_concurrency(sheet: Sheet) -> None:
    """workers, threads, worker_class, worker_connections, cloud_run_concurrency."""
    sheet.add("workers", *_workers(*sheet.view("workers")))
    sheet.add("threads", *_threads(*sheet.view("threads")))
    _worker_class(sheet)
    sheet.add("worker_connections", *_worker_connections(*sheet.view("worker_connections")))
    sheet.add("cloud_run_concurrency", *_at_once(sheet.problem, sheet.one))


def _workers(problem: Problem, one: Fit) -> Answer:
    """Why so many; where something held them back, what one more would have needed."""
    ask = problem.wish
    if one.workers >= ask.workers:
        return one.workers, ask.why, ask.bound_by
    more, connections = one.workers + 1, problem.connections
    if connections and most_workers(problem, one.footprint, by_memory=False) <= one.workers:
        return (
            one.workers,
            f"{ask.workers} wanted ({ask.why}); {_by_database(problem, one, connections)}",
            "database",
        )
    slots = problem.slots_before_worker(one.strategy, more)
    if (
        one.queues
        and "strategy" not in problem.settings
        and one.workers >= workers_before_queue(problem, one.footprint)
    ):
        both = format_bytes(one.footprint.deploy("rolling", one.workers, slots))
        return (
            one.workers,
            f"{ask.workers} wanted ({ask.why}); a deploy without a queue comes before one more, and "
            f"would take {both} of {format_bytes(problem.share.target)}",
            "memory",
        )
    # up to one worker a CPU comes without room for a replacement
    replaced = more > problem.workers_a_cpu
    need = max(
        one.footprint.steady(more, slots, replaced),
        one.footprint.steady(more, slots, False) + problem.share.one_off,
        min(problem.deploy_peak(one.footprint, name, more, slots) for name in _as_good(problem, one)),
    )
    held = "a deploy and a one-off command" if problem.share.deploys_here else "a replacement"
    beside = f" with {held}" if replaced or problem.share.deploys_here else ""
    return (
        one.workers,
        f"{ask.workers} wanted ({ask.why}); {more} need {format_bytes(need)}{beside}, of "
        f"{format_bytes(problem.share.target)}",
        "memory",
    )


def _as_good(problem: Problem, one: Fit) -> tuple[str, ...]:
    """The strategies that more workers may have: none of them a queue where these have none."""
    return tuple(name for name in problem.strategies() if one.queues or name != "queue")


def _by_database(problem: Problem, one: Fit, connections: Connections) -> str:
    """Why the database allows no more workers than these."""
    strategy, more, wanted = one.strategy, one.workers + 1, problem.slots_wanted(one.workers)
    needed = 0
    if not problem.database_allows(strategy, more):
        needed = problem.least_connections
    elif problem.database_allows(strategy, one.workers, wanted):
        needed = problem.connections_for(wanted)
    if needed:
        each = counted(needed, "connection")
        return f"{more} with {each} each, a deploy included, are too many for {connections.sentence()}"
    each = counted(connections.each(strategy, one.workers, one.beside), "connection")
    shared = f"the threads of each share {each}, a deploy included, of {connections.sentence()}"
    return f"as few as practice allows (2 a CPU), because {shared}"


def _threads(problem: Problem, one: Fit) -> Answer:
    if problem.worker_class in LOOP_CLASSES:
        return 1, "an event loop takes its requests in one thread", "worker class"
    if problem.worker_class == "sync":
        return 1, "a sync worker takes one request at a time", "worker class"
    wanted = problem.slots_wanted(one.workers)
    if one.slots >= wanted:
        why = problem.wish.threads_why or "few: more only lengthen the queue for the CPU"
        measured = problem.wish.in_all is not None and problem.workload.waits_a_cpu_second is not None
        return one.slots, why, "cpu" if measured else "practice"
    if not one.fits:
        return one.slots, "the least that makes sense: the memory does not suffice", "memory"
    connections = problem.connections
    by_database = problem.slots_by_database(one.strategy, one.workers, one.beside)
    if connections is not None and by_database <= one.slots:
        each = connections.each(one.strategy, one.workers, one.beside)
        rule = f"{constants.THREADS_A_CONNECTION} threads at most share a connection"
        if problem.threads_keep_connections:
            rule = "each Django thread keeps a connection"
        return one.slots, f"{rule}; {connections.sentence()}, {each} a worker in a deploy", "database"
    if connections and problem.threads_keep_connections and one.slots == constants.POOL_LOW_MEMORY:
        return one.slots, "each Django thread keeps a connection, and low memory mode keeps few", "memory"
    room = format_bytes(problem.share.target)
    return (
        one.slots,
        f"{wanted} wanted; at {format_bytes(one.footprint.slot)} each these fill {room}",
        "memory",
    )


def _worker_class(sheet: Sheet) -> None:
    problem = sheet.problem
    is_asgi = problem.worker_class in ASGI_CLASSES
    threads = problem.settings.get("threads")
    if problem.worker_class == "gthread" and threads and _asked_class(problem) == "sync":
        why = f"Gunicorn runs sync with {threads.value} threads as gthread"
        sheet.fields["worker_class"] = Field("worker_class", "gthread", "", why, "person", threads.source)
        return
    why = "the app speaks ASGI" if is_asgi else f"for {problem.workload.kind} work behind WSGI"
    planned = problem.workload.worker_class
    if "worker_class" not in problem.settings and problem.worker_class == "sync" != planned:
        planned, load = "sync", problem.workload
        cpu, wait = (milliseconds(each) for each in (load.cpu_per_request, load.wait_per_request))
        why = (
            f"measured to compute only ({cpu} CPU, {wait} wait a request): workers that take one "
            "request each answer sooner than threads that share a CPU; timeout ends a request that takes "
            "longer"
        )
    sheet.add("worker_class", planned, why, "app")


def _asked_class(problem: Problem) -> str:
    return str(problem.settings.value("worker_class", problem.workload.worker_class))


def _worker_connections(problem: Problem, one: Fit) -> Answer:
    most = constants.CONNECTIONS_AT_MOST
    if problem.worker_class == "sync":
        return most, "Gunicorn's default; a sync worker has no use for it", "practice"
    if problem.worker_class == "gthread":
        return most, "Gunicorn's default; idle kept-alive connections cost no thread", "practice"
    each = format_bytes(one.footprint.slot)
    if one.slots >= most:
        return one.slots, f"Gunicorn's default; at {each} each they fit", "practice"
    if not one.fits:
        return one.slots, f"the least that makes sense, at {each} each", "memory"
    deploys = {
        "overlap": " twice in a deploy",
        "rolling": " and one more in a deploy",
        "queue": " and a gate beside them" if one.beside.gate else "",
    }
    deploy = deploys.get(one.strategy, "") if problem.share.deploys_here else ""
    room = format_bytes(problem.share.target)
    return (
        one.slots,
        f"at {each} each these fill {room} in {counted(one.workers, 'worker')}{deploy}",
        "memory",
    )


def _at_once(problem: Problem, one: Fit) -> Answer:
    """Requests that the workers really take at once, as Cloud Run's concurrency."""
    if problem.cpus < 1:
        return 1, f"Cloud Run allows 1 below one CPU, here {format_cpus(problem.cpus)}", "cpu"
    if problem.worker_class == "sync":
        at_once, why = one.workers, f"{counted(one.workers, 'sync worker')} x 1 request"
    else:
        noun = "connection" if problem.worker_class in LOOP_CLASSES else "thread"
        why = f"{counted(one.workers, 'worker')} x {counted(one.slots, noun)}"
        at_once = one.workers * one.slots
    most = constants.CLOUD_RUN_CONCURRENCY_MAXIMUM
    if at_once > most:
        return most, f"{why}, but Cloud Run's most is {most}", "cloud run"
    return at_once, why, "workers"


def fill_process(sheet: Sheet) -> None:
    """How the processes start and what they write: preload, heap, heartbeat, backlog, log level, arenas."""
    problem = sheet.problem
    preloaded = sheet.add("preload_app", *_preload_app(*sheet.view("preload_app")))
    why = "frozen before the first fork, so that collections leave shared pages shared"
    sheet.add("freeze_heap", bool(preloaded), why if preloaded else "nothing is preloaded", "memory")
    sheet.add("worker_tmp_dir", *_worker_tmp_dir(problem))
    why = "Gunicorn's default; holds new connections while workers are replaced"
    sheet.add("backlog", constants.BACKLOG, why, "practice")
    sheet.add("loglevel", *_loglevel(problem))
    why = "development reloads changed code" if problem.development else "code changes by deploys only"
    sheet.add("reload", problem.development, why, "environment")
    sheet.add("low_memory_mode", *_low_memory_mode(sheet.view("low_memory_mode")[0]))
    arenas = constants.MALLOC_ARENAS_LOW_MEMORY if problem.low_memory else constants.MALLOC_ARENAS
    why = "glibc would keep 8 arenas a CPU, each with fragments of its own"
    sheet.add("malloc_arena_max", arenas, why, "practice")
    sheet.add("malloc_trim_threshold", *_malloc_trim_threshold(problem, sheet.one))


def _malloc_trim_threshold(problem: Problem, one: Fit) -> tuple[int | None, str, str]:
    if pressure(problem, one) == "ease":
        return (
            None,
            "memory is at ease: glibc's own, which keeps what large requests freed for the next",
            ("practice"),
        )
    why = "memory is short: what large requests freed goes back at once, for some CPU in those that take 1 MB"
    return constants.MALLOC_TRIM_THRESHOLD, why, "memory"


def _preload_app(problem: Problem, one: Fit) -> tuple[bool, str, str]:
    app = format_bytes(problem.workload.app_memory_bytes)
    if one.preload:
        shared = f"{problem.workload.shared_fraction:.0%} of a {app} app"
        return True, f"workers share {shared}; one costs {format_bytes(one.footprint.worker)}", "memory"
    if problem.development:
        return False, "each worker loads the app, so that a reload sees changed code", "environment"
    if problem.worker_class == "gevent":
        return False, "gevent patches the standard library in the worker, before the app is imported", "app"
    if problem.workload.preload_safe is False:
        finding = problem.workload.preload_finding
        return False, f"the app is not safe to preload{f': {finding}' if finding else ''}", "app"
    return False, "here it would buy neither a worker nor a better deploy", "practice"


def _worker_tmp_dir(problem: Problem) -> tuple[str | None, str, str]:
    room = problem.settings.value("shm_memory")
    if room is not None and int(str(room)) < constants.SHM_LEAST:
        return None, f"{constants.SHM} has only {format_bytes(int(str(room)))}: Gunicorn's default", "memory"
    return constants.SHM, "workers touch a file there to show life; on a disk that can block", "practice"


def _loglevel(problem: Problem) -> tuple[str, str, str]:
    if problem.development:
        return "info", "development shows what happens", "environment"
    if problem.low_memory:
        return "warning", "low memory mode writes no more than needed", "memory"
    low, high = constants.INFO_ABOVE_CPUS, constants.INFO_BELOW_CPUS
    if problem.workload.kind == "async" and not low < problem.cpus < high:
        return "warning", f"for async apps: info between {low} and {high} CPUs only", "practice"
    return "info", "one line per lifecycle event", "practice"


def _low_memory_mode(problem: Problem) -> tuple[bool, str, str]:
    memory = format_bytes(problem.share.memory + problem.budget.taken_bytes)
    if problem.low_memory_chosen:
        few = "short pools" if problem.workload.waits_a_cpu_second is not None else "one worker, few threads"
        return True, f"{memory} is below 512 MiB: {few}, quick recycling", "memory"
    return False, f"{memory} is not below 512 MiB", "memory"
