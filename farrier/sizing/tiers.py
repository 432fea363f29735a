"""The table of tiers in docs/sizing.md: ``python -m farrier.sizing.tiers``."""

from __future__ import annotations

from collections.abc import Iterator

from .budget import Budget
from .plan import Plan, plan
from .settings import Settings
from .units import counted, format_bytes
from .workload import Workload

MACHINES = (("256M", 1), ("512M", 1), ("1G", 1), ("2G", 2), ("4G", 4), ("8G", 8), ("32G", 16))
APPS = (
    ("I/O-bound, Flask with gthread", Workload.profile("io", "gthread", "flask")),
    ("I/O-bound, Django with gthread", Workload.profile("io", "gthread", "django")),
    ("CPU-bound, gthread", Workload.profile("cpu", "gthread")),
    ("mixed, sync", Workload.profile("mixed", "sync")),
    ("async, Django with Gunicorn's asgi", Workload.profile("async", "asgi", "django")),
    ("async, FastAPI with uvicorn", Workload.profile("async", "uvicorn", "fastapi")),
)
COLUMNS = (
    "machine",
    "workers",
    "x threads or connections",
    "preload",
    "deploy",
    "peak",
    "timeout",
    "recycle",
    "pool",
    "verdict",
)


def table(settings: Settings | None = None) -> Iterator[str]:
    """Lines of Markdown: one table for each app, one row for each machine."""
    for title, load in APPS:
        app = format_bytes(load.app_memory_bytes)
        yield from (
            "",
            f"**{title}** ({app} a process)",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|---" * len(COLUMNS) + "|",
        )
        for memory, cpus in MACHINES:
            yield f"| {' | '.join(_row(plan(Budget.given(memory, cpus), load, settings)))} |"


def _row(one: Plan) -> tuple[str, ...]:
    slots = one.value("worker_connections" if one.workload.is_async else "threads")
    deploy = str(one.value("strategy"))
    if one.value("queue_seconds"):
        deploy += f", {one.value('queue_seconds')} s, {'gate' if one.value('gate_beside') else 'no gate'}"
    peak = " / ".join(
        format_bytes(int(str(one.value(name)))) for name in ("memory_peak", "memory_deploy_peak")
    )
    requests, jitter = one.value("max_requests"), one.value("max_requests_jitter")
    return (
        f"{format_bytes(one.budget.memory_bytes)}, {counted(one.budget.cpus, 'CPU')}",
        str(one.value("workers")),
        f"x {slots}",
        "yes" if one.value("preload_app") else "no",
        deploy,
        peak,
        f"{one.value('timeout')} s",
        f"{requests} + {jitter}, {one.value('recycling')}",
        f"{one.value('db_pool_size')} + {one.value('db_max_overflow')}",
        f"{one.verdict.level}, {one.verdict.serves}",
    )


if __name__ == "__main__":
    print("\n".join(table()).strip())
