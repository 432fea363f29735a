"""What farrier costs: CPU seconds of ``farrier plan``, and memory that it adds to Gunicorn's arbiter.

    python3 benchmarks/overhead/run.py [--repeats 9]        (make bench-overhead)

``plan`` is timed by the kernel's accounting of the finished process, in turns with a bare interpreter. The
arbiter is measured beside plain Gunicorn with the same two sync workers and the same app, in turns, from
/proc/PID/smaps_rollup once the workers answer. Writes benchmarks/results/overhead/{summary.json,results.csv}.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import summary  # noqa: E402

COMMAND = "python3 benchmarks/overhead/run.py"
BIN = Path(sys.executable).parent
APP = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'ok']\n"


def cpu_seconds(argv: list[str]) -> float:
    """User and system seconds of one run, as the kernel accounts them."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    return usage.ru_utime + usage.ru_stime


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    rows: list[dict[str, object]] = []
    runs: dict[str, list[float]] = {"farrier plan": [], "bare interpreter": []}
    for _ in range(repeats + 1):  # the first round warms the page cache and is dropped
        for name, argv in (
            ("farrier plan", [str(BIN / "farrier"), "plan", "--memory", "512MiB", "--cpus", "1"]),
            ("bare interpreter", [sys.executable, "-c", "pass"]),
        ):
            runs[name].append(cpu_seconds(argv))
    runs = {name: values[1:] for name, values in runs.items()}
    memory: dict[str, list[dict[str, float]]] = {"farrier": [], "gunicorn": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bare.py").write_text(APP)
        for _ in range(max(3, repeats // 2)):
            memory["farrier"].append(arbiter_memory([str(BIN / "farrier"), "serve"], folder))
            memory["gunicorn"].append(arbiter_memory([str(BIN / "gunicorn")], folder))
    for name, values in runs.items():
        rows += [{"what": name, "cpu_seconds": value} for value in values]
    for name, found in memory.items():
        rows += [{"what": f"{name} arbiter", **each} for each in found]
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
        added = [
            ours[key] - plain[key] for ours, plain in zip(memory["farrier"], memory["gunicorn"], strict=True)
        ]
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
    path = summary.write("overhead", figures)
    with (path.parent / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["what", "cpu_seconds", "Rss", "Pss"])
        writer.writeheader()
        writer.writerows(rows)
    print("\n".join(summary.line(row) for row in figures))


if __name__ == "__main__":
    main()
