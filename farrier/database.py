"""What the plan says about database connections, for the app's own settings. Standard library only.

Every worker has a pool of its own, and a deploy may run two generations of workers at once: the plan
divides what the database allows by both. These functions hand its share to the app.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

# What an app gets that no plan sized (a laptop, a one-off command): SQLAlchemy's own default pool of 5
# holds ten processes within PostgreSQL's default max_connections of 100 even with all overflow in use.
UNPLANNED_POOL_SIZE = 5
UNPLANNED_MAX_OVERFLOW = 0
# A connection that idles longer than this is opened afresh: shorter than the idle limits that firewalls
# and managed databases commonly set (350 s and more).
POOL_RECYCLE_SECONDS = 300


class PlanUnreadable(ValueError):
    """FARRIER_PLAN holds neither a plan nor the path of one; says in one line what it holds."""


def read_plan(env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The plan in ``FARRIER_PLAN`` (JSON, or the path of a file that holds it); empty without one.

    Raises PlanUnreadable when the variable is set and cannot be read: an app that silently takes
    defaults there would exceed what its database allows.
    """
    given = (os.environ if env is None else env).get("FARRIER_PLAN", "").strip()
    if not given:
        return {}
    text, where = given, "FARRIER_PLAN"
    if not given.startswith("{"):
        where = f"FARRIER_PLAN={given}"
        try:
            with open(given, encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise PlanUnreadable(
                f"{where}: {error.strerror or error}; allowed: a plan's JSON or the path of a readable file"
            ) from error
    try:
        plan = json.loads(text)
    except ValueError as error:
        raise PlanUnreadable(
            f"{where}: not JSON ({error}); allowed: what `farrier plan --json` prints"
        ) from error
    if not isinstance(plan, dict):
        raise PlanUnreadable(
            f"{where}: a JSON {type(plan).__name__}; allowed: what `farrier plan --json` prints"
        )
    return plan


def count(plan: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number of the plan, 0 or more; the default where the plan does not hold it."""
    value = plan.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlanUnreadable(f"FARRIER_PLAN: {name} is {value!r}; allowed: a whole number, 0 or more")
    return value


def pool_settings(env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Arguments for SQLAlchemy's ``create_engine`` and ``create_async_engine``, per worker.

        engine = create_engine(url, **pool_settings())

    ``pool_size`` and ``max_overflow`` are connections, ``pool_recycle`` is seconds; ``pool_pre_ping``
    replaces a connection that the database closed. Without a plan: five connections, no overflow.
    """
    plan = read_plan(env)
    return {
        # To SQLAlchemy 0 means unlimited: a plan of none still gives the one connection that works.
        "pool_size": max(1, count(plan, "db_pool_size", UNPLANNED_POOL_SIZE)),
        "max_overflow": count(plan, "db_max_overflow", UNPLANNED_MAX_OVERFLOW),
        "pool_recycle": POOL_RECYCLE_SECONDS,
        "pool_pre_ping": True,
    }
