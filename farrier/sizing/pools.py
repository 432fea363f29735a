"""Database connections of each worker."""

from __future__ import annotations

from . import constants
from .database import pool, worker_count_in_deploy, workers_at_once
from .sheet import Sheet
from .strategy import connections_each
from .units import counted
from .workload import LOOP_CLASSES


def fill_database(sheet: Sheet) -> None:
    """db_pool_size, db_max_overflow, db_conn_max_age, db_conn_health_checks."""
    is_async = sheet.problem.worker_class in LOOP_CLASSES
    _pool(sheet, is_async)
    if is_async:
        why = "under ASGI kept connections pile up, one for each thread of the executor"
        if sheet.problem.worker_class == "gevent":
            why = "under gevent kept connections pile up, one for each client's greenlet"
        sheet.add("db_conn_max_age", 0, why, "worker class")
        sheet.add("db_conn_health_checks", False, "no connection is kept that could go stale", "worker class")
        return
    why = "under WSGI a thread keeps its connection instead of opening one a request"
    sheet.add("db_conn_max_age", constants.CONN_MAX_AGE_WSGI, why, "practice")
    sheet.add("db_conn_health_checks", True, "a kept connection is checked before its use", "practice")


def _pool(sheet: Sheet, is_async: bool) -> None:
    problem, one = sheet.problem, sheet.one
    connections = problem.connections
    if connections is None:
        for name in ("db_pool_size", "db_max_overflow"):
            sheet.add(name, 0, f"no database, says {problem.settings['uses_database'].source}", "person")
        return
    each = connections_each(problem, one)
    size, overflow = pool(each)
    if problem.workload.framework == "django" and not is_async:
        size, overflow = each, 0  # no pool: a connection a thread
    allowed = connections.each(one.strategy, one.workers, one.beside)
    count = workers_at_once(one.strategy, one.workers, one.beside)
    deploy = worker_count_in_deploy(one.strategy, one.workers)
    when = "while one is replaced" if count > deploy else f"in a deploy by {one.strategy}"
    gate = ", less two for a gate," if one.beside.gate else ""
    share = f"{connections.sentence()}; {counted(count, 'worker')} {when}{gate} leave {allowed} a worker"
    bound_by = "database" if each >= allowed else "concurrency"
    sheet.add("db_pool_size", size, f"{share}, of which it uses {each}", bound_by)
    sheet.add("db_max_overflow", overflow, f"{each} in all less {size} in the pool", bound_by)
