"""plan(budget, workload, settings): every number, why it is that, and what bound it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import constants, timing
from .advice import warnings_of
from .budget import Budget
from .database import pool
from .fields import GUNICORN_FIELDS, UNITS, Field, Verdict
from .settings import Settings, Value
from .strategy import Fit, Problem, connections_each, fit, most_workers
from .units import SizingError, format_bytes, format_cpus
from .verdict import verdict
from .workload import ASYNC_CLASSES, Workload

SCHEMA = 1
SHAPING = (
    "workers",
    "threads",
    "worker_connections",
    "preload_app",
    "freeze_heap",
    "strategy",
    "low_memory_mode",
)
"""Choices that change the arrangement itself: what the plan would have said is worked out without them."""


@dataclass(frozen=True)
class Plan:
    """Every number of one app on one machine, with its reasons."""

    fields: dict[str, Field]
    verdict: Verdict
    warnings: tuple[str, ...]
    budget: Budget
    workload: Workload
    settings: Settings

    def __getitem__(self, name: str) -> Field:
        return self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def value(self, name: str) -> Value:
        """The value of a field. Raises KeyError for what is no field."""
        return self.fields[name].value

    def gunicorn_settings(self) -> dict[str, Value]:
        """Gunicorn's own settings only, and ``bind`` where a person set it."""
        values = {name: self.fields[name].value for name in GUNICORN_FIELDS}
        if "bind" in self.settings:
            values["bind"] = self.settings["bind"].value
        return values

    def to_dict(self) -> dict[str, object]:
        """JSON-ready: flat values, and the reasons, verdict, warnings and inputs beside them."""
        return {
            "schema": SCHEMA,
            **{name: field.value for name, field in self.fields.items()},
            "fields": {name: field.to_dict() for name, field in self.fields.items()},
            "verdict": self.verdict.to_dict(),
            "warnings": list(self.warnings),
            "inputs": {
                "budget": self.budget.to_dict(),
                "workload": self.workload.to_dict(),
                "settings": self.settings.to_dict(),
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Plan:
        """The inverse of to_dict(). Raises SizingError for what is no plan of this schema."""
        if data.get("schema") != SCHEMA:
            raise SizingError(f"not a plan: schema is {data.get('schema')!r}, this version reads {SCHEMA}")
        fields, inputs, judged, warned = (
            data.get(key) for key in ("fields", "inputs", "verdict", "warnings")
        )
        try:
            return cls(
                {name: Field(name, **field) for name, field in fields.items()},  # type: ignore[attr-defined]
                Verdict(**judged),  # type: ignore[arg-type]
                tuple(warned),  # type: ignore[arg-type]
                Budget.from_dict(inputs["budget"]),  # type: ignore[index]
                Workload.from_dict(inputs["workload"]),  # type: ignore[index]
                Settings.from_dict(inputs["settings"]),  # type: ignore[index]
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise SizingError(f"not a plan: {error}") from None


def plan(budget: Budget, workload: Workload, settings: Settings | None = None) -> Plan:
    """The plan for an app on a machine, with what a person chose. Pure. Raises SizingError."""
    chosen = Settings() if settings is None else settings
    problem = Problem.of(budget, workload, chosen)
    one = fit(problem)
    sheet = _Sheet(problem, one)
    _concurrency(sheet)
    _times(sheet)
    _process(sheet)
    _memory(sheet)
    _database(sheet)
    fields = {name: sheet.fields[name] for name in ORDER}
    return Plan(fields, verdict(problem, one), warnings_of(problem, one, fields), budget, workload, chosen)


ORDER = (
    *GUNICORN_FIELDS,
    "low_memory_mode",
    "freeze_heap",
    "malloc_arena_max",
    "db_pool_size",
    "db_max_overflow",
    "db_conn_max_age",
    "db_conn_health_checks",
    "strategy",
    "queue_seconds",
    "stop_timeout",
    "cloud_run_concurrency",
    "memory_peak",
    "memory_deploy_peak",
    "memory_max",
    "memory_high",
    "candidate_memory_max",
)
"""All fields, in the order in which they are shown."""


class _Sheet:
    """Fields as they are worked out; a person's choice stands where there is one."""

    def __init__(self, problem: Problem, one: Fit) -> None:
        self.problem, self.one = problem, one
        self.fields: dict[str, Field] = {}
        self.own_problem, self.own = problem, one
        if any(name in problem.settings for name in SHAPING):
            kept = {name: one for name, one in problem.settings.items() if name not in SHAPING}
            self.own_problem = Problem.of(problem.budget, problem.workload, Settings(kept))
            self.own = fit(self.own_problem)

    def add(self, name: str, value: Value, why: str, bound_by: str) -> Value:
        """The plan's answer, or the person's with the plan's beside it."""
        unit = UNITS.get(name, "")
        setting = self.problem.settings.get(name)
        if setting is None:
            field = Field(name, value, unit, why, bound_by)
        else:
            same = (
                "as the plan would" if setting.value == value else f"the plan would say {shown(name, value)}"
            )
            field = Field(
                name, setting.value, unit, f"set by {setting.source}; {same}: {why}", "person", setting.source
            )
        self.fields[name] = field
        return field.value

    def whole(self, name: str) -> int:
        return int(str(self.fields[name].value))


def shown(name: str, value: Value) -> str:
    """A value as people read it: bytes with a unit, switches as on and off."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if UNITS.get(name) == "bytes" and isinstance(value, int):
        return format_bytes(value)
    return f"{value} s" if UNITS.get(name) == "s" else str(value)


def _concurrency(sheet: _Sheet) -> None:
    problem, one, own = sheet.problem, sheet.one, sheet.own
    sheet.add("workers", own.workers, *_why_workers(sheet.own_problem, own))
    is_async = problem.worker_class in ASYNC_CLASSES
    sheet.add("threads", *_threads(sheet))
    wanted_class = problem.workload.worker_class
    why = "what the app speaks: ASGI" if is_async else f"fits a {problem.workload.kind} WSGI app"
    if problem.worker_class == "gthread" and problem.settings.value("worker_class", wanted_class) == "sync":
        why = "Gunicorn runs sync with more than one thread as gthread"
        given = problem.settings["threads"].source
        sheet.fields["worker_class"] = Field("worker_class", "gthread", "", why, "person", given)
    else:
        sheet.add("worker_class", wanted_class, why, "app")
    sheet.add("worker_connections", *_worker_connections(sheet))
    at_once = one.workers if problem.worker_class == "sync" else one.workers * one.slots
    why = f"{one.workers} worker(s) x {one.slots} {'connections' if is_async else 'threads'}"
    bound_by = "workers"
    if problem.worker_class == "sync":
        why = f"{one.workers} sync worker(s), one request each"
    if problem.cpus < 1:
        at_once, why, bound_by = 1, f"Cloud Run allows 1 below one CPU ({format_cpus(problem.cpus)})", "cpu"
    elif at_once > constants.CLOUD_RUN_CONCURRENCY_MAXIMUM:
        at_once, bound_by = constants.CLOUD_RUN_CONCURRENCY_MAXIMUM, "cloud run"
        why += f", Cloud Run's most is {at_once}"
    sheet.add("cloud_run_concurrency", at_once, why, bound_by)


def _why_workers(problem: Problem, one: Fit) -> tuple[str, str]:
    """Why so many workers; the arithmetic of what one more would have needed where something bound."""
    ask = problem.wish
    if one.workers >= ask.workers:
        return ask.why, ask.bound_by
    more = one.workers + 1
    if most_workers(problem, one.footprint, by_memory=False) <= one.workers and problem.connections:
        each = problem.least_connections
        return (
            f"{ask.workers} wanted ({ask.why}); {more} with {each} connection(s) each through a deploy pass "
            f"what the database leaves: {problem.connections.sentence()}",
            "database",
        )
    strategy = "rolling" if problem.share.deploys_here else "overlap"
    least = ask.slots_at_least
    need = max(
        one.footprint.steady(more, least, True),
        one.footprint.steady(more, least, False) + problem.share.one_off,
        problem.deploy_peak(one.footprint, strategy, more, least),
    )
    held = (
        "a deploy and a one-off command included" if problem.share.deploys_here else "a replacement included"
    )
    return (
        f"{ask.workers} wanted ({ask.why}); {more} would peak at {format_bytes(need)}, {held}, of "
        f"{format_bytes(problem.share.target)}",
        "memory",
    )


def _threads(sheet: _Sheet) -> tuple[int, str, str]:
    problem, own = sheet.own_problem, sheet.own
    if problem.worker_class in ASYNC_CLASSES:
        return 1, "an event loop takes its requests in one thread", "worker class"
    if problem.worker_class == "sync":
        return 1, "a sync worker takes one request at a time", "worker class"
    wanted = problem.wish.slots
    if own.slots >= wanted:
        why = {
            "io": "requests that wait leave the CPU to others: 2 x 32 threads did 633 req/s where 1 did 19",
            "cpu": "more threads only lengthen the queue for the CPU",
        }.get(problem.workload.kind, "some requests wait, some compute")
        if problem.low_memory:
            why = "low memory mode takes few"
        return own.slots, f"{wanted} for {problem.workload.kind}: {why}", "practice"
    slot = format_bytes(own.footprint.slot)
    if problem.connections is not None and problem.workload.framework == "django":
        each = problem.connections.each(own.strategy, own.workers)
        if each <= own.slots:
            return (
                own.slots,
                f"each Django thread keeps a connection: {problem.connections.sentence()}, "
                f"shared by all workers of a deploy",
                "database",
            )
    return own.slots, f"{wanted} wanted; {slot} each, within {format_bytes(problem.share.target)}", "memory"


def _worker_connections(sheet: _Sheet) -> tuple[int, str, str]:
    problem, own = sheet.own_problem, sheet.own
    most = constants.CONNECTIONS_AT_MOST
    if problem.worker_class == "sync":
        return most, "Gunicorn's default; a sync worker has no use for it", "practice"
    if problem.worker_class == "gthread":
        return most, "Gunicorn's default: idle kept-alive connections wait outside the threads", "practice"
    each = format_bytes(own.footprint.slot)
    if own.slots >= most:
        return own.slots, f"Gunicorn's default; at {each} each they fit", "practice"
    return (
        own.slots,
        f"{each} a connection in {own.workers} worker(s), a deploy by {own.strategy} included, fill "
        f"{format_bytes(problem.share.target)}",
        "memory",
    )


def _times(sheet: _Sheet) -> None:
    problem, one = sheet.problem, sheet.one
    settings = problem.settings
    sheet.add("timeout", *timing.timeout(problem, one))
    sheet.add("graceful_timeout", *timing.graceful_timeout(problem, sheet.whole("timeout"), settings))
    sheet.add("stop_timeout", *timing.stop_timeout(problem, sheet.whole("graceful_timeout")))
    sheet.add("keepalive", *timing.keepalive(problem))
    sheet.add("max_requests", *timing.max_requests(problem, one))
    sheet.add("max_requests_jitter", *timing.max_requests_jitter(sheet.whole("max_requests"), one.workers))
    sheet.add("strategy", sheet.own.strategy, *timing.strategy_reason(sheet.own_problem, sheet.own))
    sheet.add("queue_seconds", *timing.queue_seconds(problem, one))


def _process(sheet: _Sheet) -> None:
    problem, own = sheet.problem, sheet.own
    sheet.add("preload_app", own.preload, *_why_preload(sheet.own_problem, own))
    frozen = bool(sheet.fields["preload_app"].value)
    why = "the heap is frozen before the first fork, so that collections leave shared pages shared"
    sheet.add("freeze_heap", frozen, why if frozen else "nothing is preloaded that could be shared", "memory")
    room = problem.settings.value("shm_memory")
    if room is not None and int(str(room)) < constants.SHM_LEAST:
        sheet.add(
            "worker_tmp_dir",
            None,
            f"/dev/shm has only {format_bytes(int(str(room)))}; Gunicorn's default",
            "memory",
        )
    else:
        sheet.add(
            "worker_tmp_dir",
            "/dev/shm",
            "workers touch a file to show life; on a disk that can block",
            "practice",
        )
    sheet.add(
        "backlog",
        constants.BACKLOG,
        "Gunicorn's default; holds new connections while workers are replaced",
        "practice",
    )
    sheet.add("loglevel", *_loglevel(problem))
    development = problem.development
    sheet.add(
        "reload",
        development,
        "development reloads changed code" if development else "code changes by deploys",
        "environment",
    )
    sheet.add("low_memory_mode", *_low_memory_mode(problem))
    arenas = constants.MALLOC_ARENAS_LOW_MEMORY if problem.low_memory else constants.MALLOC_ARENAS
    sheet.add(
        "malloc_arena_max",
        arenas,
        "glibc would keep up to 8 arenas a CPU, each with fragments of its own",
        "memory",
    )


def _why_preload(problem: Problem, own: Fit) -> tuple[str, str]:
    app = format_bytes(problem.workload.app_memory_bytes)
    if own.preload:
        return (
            f"workers share {problem.workload.shared_fraction:.0%} of a {app} app with the master; a worker "
            f"costs {format_bytes(own.footprint.worker)}",
            "memory",
        )
    if problem.development:
        return "development loads the app in each worker, so that a reload sees changed code", "environment"
    if problem.workload.preload_safe is False:
        return "the app is not safe to preload", "app"
    return "it would buy neither a worker nor a better deploy here", "practice"


def _loglevel(problem: Problem) -> tuple[str, str, str]:
    if problem.development:
        return "info", "development shows what happens", "environment"
    if problem.low_memory:
        return "warning", "low memory mode writes no more than needed", "memory"
    if problem.workload.kind == "async" and not 2 < problem.cpus < 8:
        cpus = format_cpus(problem.cpus)
        return (
            "warning",
            f"from practice with async apps: warning on 1-2 CPUs and on 8 and more (here {cpus})",
            "practice",
        )
    return "info", "one line per lifecycle event", "practice"


def _low_memory_mode(problem: Problem) -> tuple[bool, str, str]:
    memory = format_bytes(problem.share.memory)
    if problem.low_memory_chosen:
        return (
            True,
            f"{memory} is below 512 MiB: one worker, few threads, small pool, quick recycling",
            "memory",
        )
    short = "low_memory_mode" in problem.settings
    return False, f"{memory}" + (": chosen below 512 MiB" if short else " is not below 512 MiB"), "memory"


def _memory(sheet: _Sheet) -> None:
    problem, one = sheet.problem, sheet.one
    share, shape = problem.share, one.footprint
    slots = one.slots if problem.worker_class != "sync" else 1
    beside = f" + {format_bytes(shape.worker)} for a replacement" if one.replacement else ""
    sheet.add(
        "memory_peak",
        one.steady,
        f"{format_bytes(shape.mapped)} mapped files + {format_bytes(shape.master)} arbiter + {one.workers} x "
        f"({format_bytes(shape.worker)} + {slots} x {format_bytes(shape.slot)}){beside}",
        "workers",
    )
    sheet.add("memory_deploy_peak", one.deploy, *_why_deploy_peak(problem, one))
    _limits(sheet, share.available)


def _why_deploy_peak(problem: Problem, one: Fit) -> tuple[str, str]:
    of = f"of {format_bytes(problem.share.target)}"
    if not problem.share.deploys_here:
        return f"a deploy brings memory of its own; here it stays at memory_peak, {of}", "workers"
    if one.one_off_fits and one.deploy > problem.deploy_peak(
        one.footprint, one.strategy, one.workers, one.slots
    ):
        return (
            f"the app with a one-off command ({format_bytes(problem.share.one_off)}) beside it, {of}",
            "workers",
        )
    return f"a deploy by {one.strategy}, {of}", "strategy"


def _limits(sheet: _Sheet, available: int) -> None:
    share, one = sheet.problem.share, sheet.one
    if not share.deploys_here:
        sheet.add("memory_max", share.memory, "the container's own limit", "memory")
        sheet.add("memory_high", None, "containers have no such limit", "runtime")
        sheet.add("candidate_memory_max", share.memory, "each release has a container of its own", "runtime")
        return
    expected = int(one.deploy * constants.MEMORY_MAX_FACTOR)
    maximum = min(available, expected)
    factor = f"{constants.MEMORY_MAX_FACTOR:g} times the {format_bytes(one.deploy)} of a deploy"
    why = (
        f"{factor}: room for error, no room for a leak"
        if expected <= available
        else f"all that is left: {share.sentence()}"
    )
    maximum = int(
        str(sheet.add("memory_max", maximum, why, "practice" if expected <= available else "memory"))
    )
    high = max(min(one.deploy, maximum), int(maximum * constants.MEMORY_HIGH_SHARE))
    sheet.add(
        "memory_high",
        high,
        f"{constants.MEMORY_HIGH_SHARE:.0%} of memory_max: the kernel reclaims before it kills",
        "memory",
    )
    alone = one.footprint.mapped + one.footprint.generation(one.workers, one.slots)
    candidate = min(maximum, max(alone, int(alone * constants.CANDIDATE_FACTOR)))
    if one.strategy != "queue":
        old = one.footprint.generation(one.workers, one.slots)
        candidate = (
            max(min(candidate, maximum - old), min(maximum, alone))
            if one.strategy == "overlap"
            else candidate
        )
    sheet.add(
        "candidate_memory_max",
        candidate,
        f"the new release alone takes {format_bytes(alone)}; more would take the old one's",
        "memory",
    )


def _database(sheet: _Sheet) -> None:
    problem, one = sheet.problem, sheet.one
    is_async = problem.worker_class in ASYNC_CLASSES
    connections = problem.connections
    if connections is None:
        for name in ("db_pool_size", "db_max_overflow"):
            sheet.add(name, 0, "the app uses no database (uses_database)", "person")
    else:
        each = connections_each(problem, one)
        size, overflow = pool(each)
        if problem.workload.framework == "django" and not is_async:
            size, overflow = each, 0  # no pool: a connection a thread
        allowed = connections.each(one.strategy, one.workers)
        why = f"{connections.sentence()}; {one.workers} worker(s), deploy by {one.strategy}: {allowed} each at most"
        bound_by = "database" if each >= allowed else "concurrency"
        sheet.add("db_pool_size", size, f"{why}; {each} of use, {size} kept open", bound_by)
        sheet.add("db_max_overflow", overflow, f"{why}; {each} of use, {overflow} opened at need", bound_by)
    if is_async:
        sheet.add(
            "db_conn_max_age",
            0,
            "under ASGI persistent connections pile up, one per thread of the executor",
            "worker class",
        )
    else:
        sheet.add(
            "db_conn_max_age",
            constants.CONN_MAX_AGE_WSGI,
            "under WSGI each thread keeps its connection instead of opening one a request",
            "practice",
        )
    sheet.add(
        "db_conn_health_checks",
        not is_async,
        "a kept connection is checked before its use"
        if not is_async
        else "nothing is kept that would need a check",
        "worker class",
    )


def resized(plan_: Plan, budget: Budget) -> Plan:
    """The same app and choices on another budget: what a resized machine gets."""
    return plan(budget, plan_.workload, plan_.settings)
