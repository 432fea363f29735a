"""A plan for people: a table to read at 3 a.m., and one number with its arithmetic."""

from __future__ import annotations

from textwrap import wrap

from .plan import Plan
from .sheet import counted, shown
from .units import format_bytes, format_cpus

GROUPS = {
    "processes": (
        "workers",
        "threads",
        "worker_class",
        "worker_connections",
        "preload_app",
        "freeze_heap",
        "low_memory_mode",
        "malloc_arena_max",
        "worker_tmp_dir",
        "backlog",
        "loglevel",
        "reload",
    ),
    "times": ("timeout", "graceful_timeout", "stop_timeout", "keepalive"),
    "recycling": ("max_requests", "max_requests_jitter"),
    "deploys": ("strategy", "queue_seconds"),
    "database": ("db_pool_size", "db_max_overflow", "db_conn_max_age", "db_conn_health_checks"),
    "memory": ("memory_peak", "memory_deploy_peak", "memory_max", "memory_high", "candidate_memory_max"),
    "Cloud Run": ("cloud_run_concurrency",),
}
"""How the fields are grouped on a screen."""
NAME_WIDTH = 22
VALUE_WIDTH = 9
LEAST_WIDTH = 60


def render_plan(plan: Plan, width: int = 100) -> str:
    """The plan as text in ``width`` columns (at least 60): verdict and warnings, then the table."""
    width = max(LEAST_WIDTH, width)
    lines = [*_head(plan, width), ""]
    lines.append(f"{'':{NAME_WIDTH}} {'value':>{VALUE_WIDTH}}  why [bound by]")
    for group, names in GROUPS.items():
        lines.append(group)
        for name in names:
            lines += _row(plan, name, width)
    lines += ["", *wrap("One number with its arithmetic: farrier explain NAME", width)]
    return "\n".join(line.rstrip() for line in lines)


def _head(plan: Plan, width: int) -> list[str]:
    verdict, budget = plan.verdict, plan.budget
    there = f"{format_bytes(budget.memory_bytes)}, {format_cpus(budget.cpus)} CPU"
    if verdict.level == "not viable":
        title = f"NOT VIABLE on {there}"
    else:
        title = f"{verdict.level.upper()} on {there} for {verdict.serves} use, {verdict.users} users"
    lines = [*wrap(title, width), *wrap(verdict.why, width, initial_indent="  ", subsequent_indent="  ")]
    sizes = [
        f"{name} {format_bytes(size)}"
        for name, size in (
            ("minimum", verdict.minimum_memory_bytes),
            ("recommended", verdict.recommended_memory_bytes),
        )
        if size
    ]
    if sizes:
        lines.append(f"  memory: {', '.join(sizes)}")
    lines += wrap(_app(plan), width, initial_indent="  ", subsequent_indent="  ")
    for warning in plan.warnings:
        lines += wrap(warning, width, initial_indent="! ", subsequent_indent="  ")
    return lines


def _app(plan: Plan) -> str:
    load = plan.workload
    how = "measured" if load.measured else f"assumed: profile {load.profile_name}"
    return (
        f"app: {load.framework or 'any framework'}, {load.kind}, {format_bytes(load.app_memory_bytes)} a "
        f"process ({how})"
    )


def _row(plan: Plan, name: str, width: int) -> list[str]:
    field = plan[name]
    bound = field.bound_by if field.source == "plan" else f"{field.bound_by}: {field.source}"
    indent = NAME_WIDTH + VALUE_WIDTH + 3
    whys = wrap(f"{field.why} [{bound.replace(' ', chr(0xA0))}]", width - indent)
    first, *rest = (why.replace("\xa0", " ") for why in whys)
    value = shown(name, field.value)
    return [
        f" {name:{NAME_WIDTH - 1}} {value:>{VALUE_WIDTH}}  {first}",
        *(" " * indent + why for why in rest),
    ]


CHANGES = {
    "memory": "more memory, a smaller app, or less for others (reserve_memory, database_memory)",
    "cpu": "more CPUs, or another kind of work (kind)",
    "practice": "your own choice: set {name}",
    "database": "more database_max_connections, a pooler in front, or fewer workers",
    "concurrency": "more threads or connections a worker",
    "proxy idle time": "another proxy_keepalive (keep the proxy's own idle time in step)",
    "stop timeout": "another runtime, or a longer stop_timeout where you run it yourself",
    "boot time": "a faster boot (boot_seconds), fewer workers, or more CPUs",
    "timeout": "another timeout",
    "person": "taking your own choice away: {source}",
    "environment": "ENVIRONMENT=production or development",
    "worker class": "another worker_class",
    "workers": "more or fewer workers, threads or connections",
    "strategy": "another strategy, which follows from the memory",
    "runtime": "another runtime (systemd, docker, cloudrun, kubernetes)",
    "cloud run": "more than one CPU, or another runtime",
    "app": "another app: its class and what was found of it",
}


def explain(plan: Plan, name: str) -> str:
    """One number: the arithmetic, its inputs, what bound it, and what would change it. Raises KeyError."""
    field = plan[name]
    unit = "" if field.unit in ("", "bytes", "s") else f" {field.unit}"
    lines = [f"{name} = {shown(name, field.value)}{unit}", ""]
    lines += wrap(f"Why: {field.why}.", 78)
    change = CHANGES.get(field.bound_by, "another {name}").format(name=name, source=field.source)
    lines += [*wrap(f"Bound by: {field.bound_by}. It would change with {change}.", 78), "", "From:"]
    for label, text in _inputs(plan, name):
        lines += wrap(f"  {label:<12} {text}", 78, subsequent_indent=" " * 15)
    return "\n".join(lines)


def _inputs(plan: Plan, name: str) -> list[tuple[str, str]]:
    budget, load = plan.budget, plan.workload
    swap = f", swap {format_bytes(budget.swap_bytes)}" if budget.swap_bytes else ""
    cpus = f"{format_cpus(budget.cpus)} ({budget.cpu_source})"
    inputs = [
        (
            "memory",
            f"{format_bytes(budget.memory_bytes)} ({budget.memory_source}), scope {budget.scope}{swap}",
        ),
        ("cpus", cpus),
        ("app", _app_figures(plan)),
        (
            "plan",
            f"{counted(int(str(plan.value('workers'))), 'worker')} of class {plan.value('worker_class')}, "
            f"deploy by {plan.value('strategy')}",
        ),
    ]
    for setting in plan.settings.values():
        mine = "" if setting.name != name else " (this one)"
        value = shown(setting.name, setting.value)
        inputs.append(("your choice", f"{setting.name} = {value}, from {setting.source}{mine}"))
    if not load.measured:
        inputs.append(("estimate", "the app's figures are assumed; measuring it makes them certain"))
    return inputs


def _app_figures(plan: Plan) -> str:
    load = plan.workload
    slot = (
        f"{format_bytes(load.connection_memory_bytes)} a connection"
        if load.is_async
        else f"{format_bytes(load.request_memory_bytes)} a request"
    )
    safe = {True: "safe to preload", False: "not safe to preload", None: "preload untried"}[load.preload_safe]
    return (
        f"{load.profile_name}: {format_bytes(load.app_memory_bytes)} a process, "
        f"{load.shared_fraction:.0%} shared when preloaded, {slot}, {load.boot_seconds:g} s to boot, {safe}"
    )
