"""What a request costs: CPU seconds with farrier around the app against bare Gunicorn, by worker class.

Both have the same settings and write the same fields to their access log; farrier has its health paths,
request ids, traffic counters, signs of life and slow-request watch on top. The app works for about 1 ms. One
worker each, pinned to one CPU, its clients (a closed loop over kept-alive connections) on another. A pair is
two fresh processes that are asked in short turns in the order A B B A, so that what drifts meanwhile hits
both; its ratio is that of the medians over the turns of the CPU seconds that the kernel accounts to master
and worker. The mean would not do: on a virtual machine the seconds that its host takes away are charged to
whoever runs, which made one turn in some hundred cost three times as much. But a median drops what happens
seldom, so that the mean without the two extreme turns stands beside it. See run.py, which writes the figures.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import summary
from server import FARRIER, GUNICORN, HERE, Server, cpus

CLASSES = ("sync", "gthread", "asgi", "uvicorn")
#: Asked for (issue 5): at most 2 % of the CPU seconds of a request, for an app of 1 ms.
BOUND = 1.02
APP_SECONDS = 0.001
#: A pair asks each of the two in 2 x ROUNDS turns of so many: what else the machine does hits both alike.
ROUNDS, REQUESTS, WARM, CONNECTIONS = 5, 200, 200, 4
#: The fields that farrier's own lines have, by Gunicorn's names.
LINE = (
    '{"time": "%(t)s", "severity": "INFO", "message": "%(m)s %(U)s %(s)s", "pid": "%(p)s", '
    '"event": "request", "method": "%(m)s", "path": "%(U)s", "status": %(s)s, "bytes": %(B)s, '
    '"seconds": %(L)s, "remote": "%(h)s", "user_agent": "%(a)s", "referer": "%(f)s", '
    '"request_id": "%({x-request-id}i)s"}'
)


def turns_for(seconds: float) -> int:
    """How often the app's loop turns in so many seconds on this machine."""
    sys.path.insert(0, str(HERE))
    from apps import work

    work(100000)
    best = math.inf
    for _ in range(5):
        began = time.process_time()
        work(100000)
        best = min(best, time.process_time() - began)
    return round(100000 * seconds / best)


def argv(kind: str, worker_class: str, folder: str) -> list[str]:
    app = "apps:wsgi" if worker_class in ("sync", "gthread") else "apps:asgi"
    name = worker_class
    given = ["--workers", "1", "--threads", "4" if worker_class == "gthread" else "1"]
    given += ["--worker-connections", "1000", "--keep-alive", "5", "--timeout", "30", "--max-requests", "0"]
    given += ["--log-level", "info", "--access-logfile", f"{folder}/{kind}.access"]
    if kind == GUNICORN:
        given += ["--access-logformat", LINE]
        if worker_class == "uvicorn":
            name, app = "uvicorn_worker.UvicornWorker", "apps:logged_asgi"
    return [*given, "--worker-class", name, app]


def start(kind: str, worker_class: str, folder: str, turns: int) -> Server:
    environ = {"BENCH_TURNS": str(turns), "FARRIER_LOG": "json"}
    if kind == GUNICORN and worker_class == "uvicorn":
        # Its own second line per request, to nowhere.
        environ["GUNICORN_CMD_ARGS"] = "--config bare_uvicorn.conf.py"
    return Server(kind, argv(kind, worker_class, folder), folder, **environ)


def ask(server: Server, requests: int) -> float:
    """CPU seconds of the server for each of so many requests."""
    before = server.cpu_seconds()
    subprocess.run(
        [sys.executable, str(HERE / "client.py"), str(server.port), str(requests), str(CONNECTIONS)],
        check=True,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus()[1]),
    )
    return (server.cpu_seconds() - before) / requests


def pair(worker_class: str, turns: int, first: str) -> dict[str, Any]:
    """One pair of fresh processes, asked in turns: ``first``, the other, the other, ``first``, and again."""
    second = GUNICORN if first == FARRIER else FARRIER
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        servers: dict[str, Server] = {}
        try:
            for kind in (first, second):
                servers[kind] = start(kind, worker_class, folder, turns)
            for one in servers.values():
                one.await_answer()
                one.pin(cpus()[0])
                ask(one, WARM)
            took: dict[str, list[float]] = {FARRIER: [], GUNICORN: []}
            for kind in (first, second, second, first) * ROUNDS:
                took[kind].append(ask(servers[kind], REQUESTS))
        finally:
            for one in servers.values():
                one.stop()
        _same_lines(folder)
    ours, theirs = statistics.median(took[FARRIER]), statistics.median(took[GUNICORN])
    return {
        "class": worker_class,
        "farrier_us": 1e6 * ours,
        "gunicorn_us": 1e6 * theirs,
        "ratio": ours / theirs,
        "trimmed_ratio": trimmed(took[FARRIER]) / trimmed(took[GUNICORN]),
    }


def trimmed(values: list[float]) -> float:
    """The mean without the smallest and the largest."""
    return statistics.mean(sorted(values)[1:-1])


def _same_lines(folder: str) -> None:
    """Both logged every request, with the same fields."""
    found = []
    for kind in (FARRIER, GUNICORN):
        with open(f"{folder}/{kind}.access", encoding="utf-8") as file:
            lines = file.readlines()
        found.append((len(lines), set(json.loads(lines[-1]))))
    (ours, names), (theirs, other_names) = found
    if min(ours, theirs) < 2 * ROUNDS * REQUESTS + WARM or abs(ours - theirs) > 50 or names != other_names:
        raise SystemExit(
            f"not the same log: {ours} lines of {sorted(names)}, {theirs} of {sorted(other_names)}"
        )


def interval(values: list[float]) -> tuple[float, float]:
    """Of the median, 95 %: by order statistics (the binomial distribution), free of any other assumption."""
    ordered, count = sorted(values), len(values)
    rank, tail = 0, 0.0
    while rank < count // 2:
        tail += math.comb(count, rank) / 2**count
        if 2 * tail > 0.05:
            break
        rank += 1
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[count - rank]


def figures(pairs: int, command: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The figures, and a row for every pair."""
    turns = turns_for(APP_SECONDS)
    rows, found = [], []
    for worker_class in CLASSES:
        mine = []
        for number in range(pairs):
            row = pair(worker_class, turns, FARRIER if number % 2 else GUNICORN)
            mine.append(row)
            print(f"  {worker_class} {number + 1}/{pairs}: {row['ratio']:.4f}", file=sys.stderr, flush=True)
        rows += mine
        ratios = [row["ratio"] for row in mine]
        low, high = interval(ratios)
        ratio = statistics.median(ratios)
        found.append(
            summary.figure(
                f"CPU seconds of a request against Gunicorn's, {worker_class}",
                round(ratio, 4),
                "times",
                command,
                interval=(round(low, 4), round(high, 4)),
                bound=f"<= {BOUND:g} times",
                holds=ratio <= BOUND,
            )
        )
        found.append(
            summary.figure(
                f"... by the turns' mean without the extremes, {worker_class}",
                round(statistics.median(row["trimmed_ratio"] for row in mine), 4),
                "times",
                command,
            )
        )
    return found, rows


if __name__ == "__main__":
    for worker_class in sys.argv[2:] or CLASSES:
        ratios = []
        turns = turns_for(APP_SECONDS)
        for number in range(int(sys.argv[1])):
            row = pair(worker_class, turns, FARRIER if number % 2 else GUNICORN)
            ratios.append(row["ratio"])
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        print(worker_class, statistics.median(ratios), interval(ratios))
