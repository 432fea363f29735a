"""What a plan is made of: fields with their reasons, and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .settings import Value

GUNICORN_FIELDS = (
    "workers",
    "threads",
    "worker_class",
    "worker_connections",
    "timeout",
    "graceful_timeout",
    "keepalive",
    "max_requests",
    "max_requests_jitter",
    "preload_app",
    "worker_tmp_dir",
    "backlog",
    "loglevel",
    "reload",
)
"""Fields that are Gunicorn's own settings, by Gunicorn's own names."""

UNITS = {
    "workers": "processes",
    "threads": "threads a worker",
    "worker_connections": "connections a worker",
    "timeout": "s",
    "graceful_timeout": "s",
    "keepalive": "s",
    "max_requests": "requests",
    "max_requests_jitter": "requests",
    "backlog": "connections",
    "malloc_arena_max": "arenas",
    "malloc_trim_threshold": "bytes",
    "db_pool_size": "connections a worker",
    "db_max_overflow": "connections a worker",
    "db_conn_max_age": "s",
    "memory_max": "bytes",
    "memory_high": "bytes",
    "candidate_memory_max": "bytes",
    "memory_peak": "bytes",
    "memory_deploy_peak": "bytes",
    "stop_timeout": "s",
    "cloud_run_concurrency": "requests",
    "queue_seconds": "s",
}
"""Unit of each field; the rest are names and switches."""


@dataclass(frozen=True)
class Field:
    """One number of the plan: its value in ``unit``, why it is that, what bound it, and who set it."""

    name: str
    value: Value
    unit: str
    why: str
    bound_by: str
    source: str = "plan"

    def to_dict(self) -> dict[str, Value]:
        """JSON-ready, without the name, which is the key."""
        return {
            "value": self.value,
            "unit": self.unit,
            "why": self.why,
            "bound_by": self.bound_by,
            "source": self.source,
        }


@dataclass(frozen=True)
class Verdict:
    """For whom this machine serves this app, how well, and which sizes would do. Sizes in bytes."""

    level: str
    """comfortable, tight or not viable"""
    serves: str
    users: str
    minimum_memory_bytes: int | None
    """The smallest size on which one worker runs; None where no size that was tried does."""
    recommended_memory_bytes: int | None
    """The smallest size on which the verdict is comfortable."""
    why: str

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)
