"""The rules that people size their servers by, each under stock Gunicorn as its users run it.

`cores` is what a rule sees in a box with a CPU quota: os.cpu_count() and multiprocessing.cpu_count() see the
machine's processors there, which are SEEN; nproc and cgroup-limits see those of the box's cpuset, CPUSET.
Only where a rule says so is it the quota.

A rule's class is sync where the rule says nothing of it, which is Gunicorn's own default; an ASGI app gets
uvicorn's worker in the same number, and threads mean nothing there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.sizing.cells import Cell, Point

#: Processors that a box sees, whatever its quota: the machine's.
SEEN = os.cpu_count() or 1
#: Processors that a box is held to while it starts.
CPUSET = 2


@dataclass(frozen=True)
class Rule:
    """A rule: what it is called, how many workers (and threads) it takes, and where it stands."""

    key: str
    title: str
    source: str
    """Project and file."""
    size: Callable[[Cell], tuple[int, int]]
    """Workers and threads for a cell."""
    preload: bool = False
    timeout: int = 30
    other_server: str = ""
    """Not Gunicorn: reported beside the rules, and not counted as one."""

    def point(self, cell: Cell) -> Point | None:
        """The configuration that it gives in a cell; None where it cannot serve such an app."""
        workers, threads = self.size(cell)
        if self.other_server:
            if self.other_server == "uvicorn" and cell.interface == "wsgi":
                return None
            return Point(self.other_server, "", workers)
        if cell.interface == "asgi":
            return Point("gunicorn", "uvicorn", workers, 1, self.preload)
        name = "gthread" if threads > 1 else "sync"
        return Point("gunicorn", name, workers, threads, self.preload, timeout=self.timeout)


def _default(cell: Cell) -> tuple[int, int]:
    return 1, 1


def _twice_seen(cell: Cell) -> tuple[int, int]:
    return 2 * SEEN + 1, 1


def _twice_quota(cell: Cell) -> tuple[int, int]:
    return max(1, int(2 * cell.cpus) + 1), 1


def _heroku(cell: Cell) -> tuple[int, int]:
    return max(1, min(2 * CPUSET + 1, cell.memory_mib // 256)), 1


def _s2i(cell: Cell) -> tuple[int, int]:
    return max(1, min((cell.memory_mib - 43) // 40, 2 * CPUSET, 12)), 1


def _tiangolo(cell: Cell) -> tuple[int, int]:
    return max(SEEN, 2), 1


def _gitlab(cell: Cell) -> tuple[int, int]:
    by_memory = math.floor(cell.memory_mib / 1024 - 1.5)
    return max(2, min(SEEN, by_memory)), 4


def _odoo(cell: Cell) -> tuple[int, int]:
    by_memory = int(cell.memory_mib / (0.8 * 150 + 0.2 * 1024))
    return max(1, min(2 * SEEN + 1, by_memory)), 1


def _functions(cell: Cell) -> tuple[int, int]:
    return 1, 4 * SEEN


RULES = (
    Rule("default", "Gunicorn's default", "gunicorn, gunicorn/config.py: 1 worker, of class sync", _default),
    Rule(
        "2cpu+1", "2·CPU+1, of the CPUs it sees",
        "gunicorn, docs/source/design.rst: (2 x $num_cores) + 1, mostly written multiprocessing.cpu_count()",
        _twice_seen,
    ),
    Rule(
        "2cpu+1-quota", "2·CPU+1, of the CPU limit",
        "the same, by somebody who knows the limit; halves are rounded down after doubling", _twice_quota,
    ),
    Rule(
        "heroku", "Heroku: min(2·cores+1, MB/256)",
        "heroku-buildpack-python, vendor/WEB_CONCURRENCY.sh; cores by nproc", _heroku,
    ),
    Rule(
        "s2i", "s2i-python: min((MB-43)/40, 2·cores, 12)",
        "s2i-python-container, s2i/bin/run: get_default_web_concurrency; cores by cgroup-limits, which "
        "counts the processors of the cpuset", _s2i,
    ),
    Rule(
        "tiangolo", "tiangolo: max(cores, 2)",
        "uvicorn-gunicorn-docker, docker-images/gunicorn_conf.py; cores by multiprocessing.cpu_count(). Its "
        "images run uvicorn's worker; a WSGI app gets as many sync ones, as in its Flask images",
        _tiangolo,
    ),
    Rule(
        "gitlab", "GitLab: max(2, min(cores, GB-1.5)) x 4 threads",
        "omnibus-gitlab, files/gitlab-cookbooks/gitlab/libraries/puma.rb and its defaults of 4 threads and "
        "preloading, in Gunicorn's terms", _gitlab, preload=True,
    ),
    Rule(
        "odoo", "Odoo: min(2·cores+1, MB/325)",
        "odoo/documentation, content/administration/on_premise/deploy.rst: 80 % of the workers take 150 MB, "
        "20 % take 1 GB", _odoo,
    ),
    Rule(
        "functions", "Functions Framework: 1 x 4·CPU threads",
        "functions-framework-python, src/functions_framework/_http/gunicorn.py: os.cpu_count() * 4, "
        "no timeout",
        _functions, timeout=0,
    ),
)  # fmt: skip

OTHERS = (
    Rule(
        "uvicorn", f"uvicorn --workers {SEEN}", "uvicorn's own supervisor, one worker a CPU that it sees",
        lambda cell: (SEEN, 1), other_server="uvicorn",
    ),
    Rule(
        "granian", f"granian --workers {SEEN}", "granian, one worker a CPU that it sees, else its defaults",
        lambda cell: (SEEN, 1), other_server="granian",
    ),
)  # fmt: skip


def rules_of(cell: Cell) -> dict[str, Point]:
    """key -> point of every rule and other server that can serve a cell."""
    found = {rule.key: rule.point(cell) for rule in (*RULES, *OTHERS)}
    return {key: point for key, point in found.items() if point is not None}


def title(key: str) -> str:
    return next(rule.title for rule in (*RULES, *OTHERS) if rule.key == key)
