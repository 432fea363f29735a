"""What two workers of a 150 MB app take after 10,000 requests: farrier's preload with a frozen heap against
``gunicorn -w 2`` as it comes. PSS counts a page that processes share in parts, so that the sum over all
processes is what the app takes of the machine. See run.py, which writes the figures.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import summary
from server import FARRIER, GUNICORN, HERE, Server

REQUESTS, WORKERS = 10_000, 2
#: Asked for of the workers; what the preloading master has beside them is shown as well.
BOUND = 0.6
#: Without recycling: each worker answers its share of all requests, and what that does to its pages stays.
ARGUMENTS = {FARRIER: ["--preload", "--worker-class", "sync", "--max-requests", "0"], GUNICORN: []}
#: By name in the CSV and in the figures.
ALONE, WHOLE = "the workers", "master and workers"


def pss(pid: int) -> float:
    """Proportional set size in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"the kernel says no PSS of process {pid}")


def run(kind: str) -> dict[str, Any]:
    """PSS in MiB of one server after its requests."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(kind, ["--workers", str(WORKERS), *ARGUMENTS[kind], "memory_app:app"], folder)
        try:
            server.await_answer(workers=WORKERS)
            subprocess.run(
                [sys.executable, str(HERE / "client.py"), str(server.port), str(REQUESTS), "4"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            master, *workers = [pss(pid) for pid in server.pids()]
        finally:
            server.stop()
    if len(workers) != WORKERS:
        raise SystemExit(f"{kind}: {len(workers)} workers are left of {WORKERS}")
    return {"what": f"{kind} memory", ALONE: sum(workers), WHOLE: master + sum(workers)}


def figures(repeats: int, command: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The figures, and a row for every run."""
    rows: dict[str, list[dict[str, Any]]] = {FARRIER: [], GUNICORN: []}
    for number in range(repeats):
        for kind in (FARRIER, GUNICORN) if number % 2 else (GUNICORN, FARRIER):
            rows[kind].append(run(kind))
        print(f"  memory {number + 1}/{repeats}", file=sys.stderr, flush=True)
    found = []
    for key in (ALONE, WHOLE):
        pairs = zip(rows[FARRIER], rows[GUNICORN], strict=True)
        ratios = [ours[key] / theirs[key] for ours, theirs in pairs]
        ratio = statistics.median(ratios)
        found.append(
            summary.figure(
                f"PSS of two workers of a 150 MB app, preloaded, {key}",
                round(ratio, 3),
                "times",
                command,
                interval=(round(min(ratios), 3), round(max(ratios), 3)),
                bound=f"<= {BOUND:g} times" if key == ALONE else None,
                holds=ratio <= BOUND if key == ALONE else None,
            )
        )
        for kind in (FARRIER, GUNICORN):
            values = [row[key] for row in rows[kind]]
            found.append(
                summary.figure(
                    f"... {kind}, {key}",
                    round(statistics.median(values), 1),
                    "MiB",
                    command,
                    interval=(round(min(values), 1), round(max(values), 1)),
                )
            )
    return found, [row for kind in rows.values() for row in kind]
