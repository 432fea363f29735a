"""A plan for people: a table to read at 3 a.m., and one number with its arithmetic."""

from __future__ import annotations

from dataclasses import replace
from textwrap import wrap

from . import constants
from .memory import share_of
from .plan import Plan
from .plan import plan as make_plan
from .sheet import shown
from .units import counted, format_bytes, format_cpus

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
        "malloc_trim_threshold",
        "worker_tmp_dir",
        "backlog",
        "loglevel",
        "reload",
    ),
    "times": ("timeout", "graceful_timeout", "stop_timeout", "keepalive"),
    "recycling": ("max_requests", "max_requests_jitter", "recycling"),
    "deploys": ("strategy", "queue_seconds", "gate_beside"),
    "database": ("db_pool_size", "db_max_overflow", "db_conn_max_age", "db_conn_health_checks"),
    "memory": ("memory_peak", "memory_deploy_peak", "memory_max", "memory_high", "candidate_memory_max"),
    "Cloud Run": ("cloud_run_concurrency",),
}
"""How the fields are grouped on a screen."""
NAME_WIDTH = 22
VALUE_WIDTH = 13
LEAST_WIDTH = 60
SCREEN = 78


def render_plan(plan: Plan, width: int = 100) -> str:
    """The plan as text in ``width`` columns (at least 60): verdict and warnings, then the table."""
    width = max(LEAST_WIDTH, width)
    lines = [*_head(plan, width), ""]
    lines.append(f"{'':{NAME_WIDTH}} {'value':>{VALUE_WIDTH}}  why [bound by]")
    for group, names in GROUPS.items():
        lines.append(group)
        for name in names:
            if name in plan:  # one of an older version may lack a field
                lines += _row(plan, name, width)
    lines += ["", *wrap("One number with its arithmetic: farrier explain NAME", width)]
    return "\n".join(line.rstrip() for line in lines)


def _head(plan: Plan, width: int) -> list[str]:
    verdict, budget = plan.verdict, plan.budget
    there = f"{format_bytes(budget.memory_bytes)}, {counted(budget.cpus, 'CPU')}"
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
    unit = "" if field.unit in ("", "bytes", "s") else f" {_singular(field.unit, field.value)}"
    lines = [f"{name} = {shown(name, field.value)}{unit}", ""]
    lines += wrap(f"Why: {field.why}.", SCREEN)
    change = CHANGES.get(field.bound_by, "another {name}").format(name=name, source=field.source)
    lines += wrap(f"Bound by: {field.bound_by}. It would change with {change}.", SCREEN)
    lines += ["", "From:", *_labelled(_inputs(plan, name)), "", "What if:"]
    lines += _labelled(_other_sizes(plan, name)) or ["  half or twice the memory or CPUs would not change it"]
    return "\n".join(lines)


def _singular(unit: str, value: object) -> str:
    """``process`` for 1, ``thread a worker``; the units as they are for any other number."""
    if value != 1:
        return unit
    noun, *rest = unit.split(" ")
    noun = "process" if noun == "processes" else noun.removesuffix("s")
    return " ".join((noun, *rest))


def _labelled(rows: list[tuple[str, str]]) -> list[str]:
    width = max((len(label) for label, _ in rows), default=0) + 4
    return [
        line
        for label, text in rows
        for line in wrap(f"  {label:{width - 4}}  {text}", SCREEN, subsequent_indent=" " * width)
    ]


def _other_sizes(plan: Plan, name: str) -> list[tuple[str, str]]:
    """What the same app would get on half and twice the memory and CPUs, where that is another value."""
    budget, rows = plan.budget, []
    for factor in (0.5, 2.0, 4.0):
        memory = int(budget.memory_bytes * factor)
        machine = int(budget.machine_memory_bytes * factor)
        rows.append(
            (format_bytes(memory), replace(budget, memory_bytes=memory, machine_memory_bytes=machine))
        )
    for factor in (0.5, 2.0):
        cpus = budget.cpus * factor
        rows.append((counted(cpus, "CPU"), replace(budget, cpus=cpus)))
    found = []
    for label, other in rows:
        value = make_plan(other, plan.workload, plan.settings).value(name)
        if value != plan.value(name):
            found.append((f"on {label}", shown(name, value)))
    return found


def _inputs(plan: Plan, name: str) -> list[tuple[str, str]]:
    budget, share = plan.budget, share_of(plan.budget, plan.workload, plan.settings)
    swap = f", swap {format_bytes(budget.swap_bytes)}" if budget.swap_bytes else ""
    workers = counted(int(str(plan.value("workers"))), "worker")
    headroom = f"{constants.HEADROOM_SHARE:.0%} headroom leaves {format_bytes(share.target)}"
    inputs = [
        (
            "memory",
            f"{format_bytes(budget.memory_bytes)} ({budget.memory_source}), scope {budget.scope}{swap}",
        ),
        ("share", f"{share.sentence()}; {headroom}"),
        ("cpus", f"{format_cpus(budget.cpus)} ({budget.cpu_source})"),
        ("app", _app_figures(plan)),
        ("plan", f"{workers} of class {plan.value('worker_class')}, deploy by {plan.value('strategy')}"),
    ]
    for setting in plan.settings.values():
        mine = " (this one)" if setting.name == name else ""
        value = shown(setting.name, setting.value)
        inputs.append(("your choice", f"{setting.name} = {value}, from {setting.source}{mine}"))
    return inputs


def _app_figures(plan: Plan) -> str:
    load = plan.workload
    slot = (
        f"{format_bytes(load.connection_memory_bytes)} a connection"
        if load.is_async
        else f"{format_bytes(load.request_memory_bytes)} a request"
    )
    how = "measured" if load.measured else f"assumed, profile {load.profile_name}"
    safe = {True: "safe to preload", False: "not safe to preload", None: "preload untried"}[load.preload_safe]
    if load.preload_finding:
        safe += f" ({load.preload_finding})"
    return (
        f"{how}: {format_bytes(load.app_memory_bytes)} a process, "
        f"{load.shared_fraction:.0%} shared when preloaded, {slot}, {load.boot_seconds:g} s to boot, {safe}"
    )
