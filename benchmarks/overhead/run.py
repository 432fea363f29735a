"""What farrier costs: CPU of ``farrier plan`` and of a request, memory of the arbiter and of two workers.

    python3 benchmarks/overhead/run.py [--repeats 9] [--only plan requests memory]      (make bench-overhead)

``plan`` is timed by the kernel's accounting of the finished process, in turns with a bare interpreter. The
arbiter is measured beside plain Gunicorn with the same two sync workers and the same app, in turns, from
/proc/PID/smaps_rollup once the workers answer. For the others see request_cost.py and memory.py. QUICK=1:
three repeats of each. Writes benchmarks/results/overhead/summary.json and a CSV for each part; ``--only``
leaves the figures of the other parts as they were.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import memory  # noqa: E402
import request_cost  # noqa: E402
import summary  # noqa: E402
from server import BIN, free_port  # noqa: E402

COMMAND = "python3 benchmarks/overhead/run.py"
PARTS = ("plan", "requests", "memory")
APP = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'ok']\n"


def cpu_seconds(argv: list[str]) -> float:
    """User and system seconds of one run, as the kernel accounts them."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    return usage.ru_utime + usage.ru_stime


def arbiter_memory(argv: list[str], folder: str) -> dict[str, float]:
    """Rss and Pss of the master in MiB, once its workers answer."""
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GUNICORN_", "FARRIER_", "WORKERS"))}
    process = subprocess.Popen(
        [*argv, "--bind", f"127.0.0.1:{port}", "--workers", "2", "--no-control-socket", "bare:app"],
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2):
                    break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"{argv[0]} did not come up") from None
                time.sleep(0.05)
        time.sleep(1)  # both workers booted and idle
        found: dict[str, float] = {}
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in ("Rss", "Pss"):
                found[key] = int(rest.split()[0]) / 1024
        return found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)


def spread(values: list[float]) -> tuple[float, float]:
    return round(min(values), 3), round(max(values), 3)


def plan_figures(repeats: int) -> list[dict[str, Any]]:
    """``farrier plan`` and the arbiter. Writes results.csv."""
    rows: list[dict[str, object]] = []
    runs: dict[str, list[float]] = {"farrier plan": [], "bare interpreter": []}
    for _ in range(repeats + 1):  # the first round warms the page cache and is dropped
        for name, argv in (
            ("farrier plan", [str(BIN / "farrier"), "plan", "--memory", "512MiB", "--cpus", "1"]),
            ("bare interpreter", [sys.executable, "-c", "pass"]),
        ):
            runs[name].append(cpu_seconds(argv))
    runs = {name: values[1:] for name, values in runs.items()}
    masters: dict[str, list[dict[str, float]]] = {"farrier": [], "gunicorn": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bare.py").write_text(APP)
        for _ in range(max(3, repeats // 2)):
            masters["farrier"].append(arbiter_memory([str(BIN / "farrier"), "serve"], folder))
            masters["gunicorn"].append(arbiter_memory([str(BIN / "gunicorn")], folder))
    for name, values in runs.items():
        rows += [{"what": name, "cpu_seconds": value} for value in values]
    for name, found in masters.items():
        rows += [{"what": f"{name} arbiter", **each} for each in found]
    write_rows("results.csv", rows, ["what", "cpu_seconds", "Rss", "Pss"])
    plan = statistics.median(runs["farrier plan"])
    figures = [
        summary.figure(
            "CPU seconds of farrier plan",
            round(plan, 3),
            "s",
            COMMAND,
            interval=spread(runs["farrier plan"]),
            bound="< 0.2 s",
            holds=plan < 0.2,
        ),
        summary.figure(
            "CPU seconds of a bare interpreter, in turns with it",
            round(statistics.median(runs["bare interpreter"]), 3),
            "s",
            COMMAND,
            interval=spread(runs["bare interpreter"]),
        ),
    ]
    for key in ("Rss", "Pss"):
        pairs = zip(masters["farrier"], masters["gunicorn"], strict=True)
        added = [ours[key] - plain[key] for ours, plain in pairs]
        figures.append(
            summary.figure(
                f"{key} that farrier adds to the arbiter",
                round(statistics.median(added), 2),
                "MiB",
                COMMAND,
                interval=spread(added),
                bound="< 5 MiB",
                holds=statistics.median(added) < 5,
            )
        )
    return figures


def write_rows(name: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
    path = summary.RESULTS / "overhead" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def before() -> list[dict[str, Any]]:
    path = summary.RESULTS / "overhead" / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3 if os.environ.get("QUICK") == "1" else 9)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    figures: list[dict[str, Any]] = []
    if "plan" in given.only:
        figures += plan_figures(given.repeats)
    if "requests" in given.only:
        found, rows = request_cost.figures(given.repeats, COMMAND)
        write_rows("requests.csv", rows, list(rows[0]))
        figures += found
    if "memory" in given.only:
        found, rows = memory.figures(max(2, given.repeats // 3), COMMAND)
        write_rows("memory.csv", rows, list(rows[0]))
        figures += found
    new = {row["figure"] for row in figures}
    summary.write("overhead", [row for row in before() if row["figure"] not in new] + figures)
    print("\n".join(summary.line(row) for row in figures))


if __name__ == "__main__":
    main()
