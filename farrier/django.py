"""Django's database settings, taken from the plan. Standard library only: it never imports Django.

In a project's settings.py:

    from farrier.django import database_settings

    DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}}
    DATABASES["default"].update(database_settings())
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farrier.database import count, read_plan

# Seconds that a request waits for a free connection before Django answers with an error: well below the
# shortest worker timeout that a plan gives (30 s), so that the error is the app's and not a killed worker.
POOL_WAIT_SECONDS = 10


def database_settings(*, pool: bool = False, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What to merge into ``DATABASES["default"]``: ``CONN_MAX_AGE`` in seconds and ``CONN_HEALTH_CHECKS``.

    Threads of a WSGI worker keep their connection (600 s in a plan). Under ASGI a connection kept by a
    thread that serves no second request would only be held, so the plan says 0 there.

    ``pool=True`` asks for Django's pool instead (Django 5.1 and newer, PostgreSQL, ``psycopg[pool]``):
    ``OPTIONS["pool"]`` with at most the plan's pool and overflow for each worker. Django refuses a pool
    together with persistent connections, so ``CONN_MAX_AGE`` is 0 then.

    Without a plan (a laptop, a management command) a connection lasts one request, as in plain Django.
    Raises farrier.database.PlanUnreadable when FARRIER_PLAN is set and cannot be read.
    """
    plan = read_plan(env)
    checks = plan.get("db_conn_health_checks", True)
    if pool:
        size = max(1, count(plan, "db_pool_size", 4))
        most = size + count(plan, "db_max_overflow", 0)
        # One connection is opened at boot; the rest when they are wanted, so that idle workers hold few.
        options = {"pool": {"min_size": 1, "max_size": most, "timeout": POOL_WAIT_SECONDS}}
        return {"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": bool(checks), "OPTIONS": options}
    return {"CONN_MAX_AGE": count(plan, "db_conn_max_age", 0), "CONN_HEALTH_CHECKS": bool(checks)}
