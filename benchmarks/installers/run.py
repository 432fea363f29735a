"""uv against pip on small hosts: time, memory, and which of them completes at all.

    python3 benchmarks/installers/run.py [--repeats 5] [--again]

Each trial is a container of its own on one CPU: a fresh venv is filled from an example's lock with
nothing cached, then a second one with whatever the first left in the cache (the next deploy). The ways
of installing take turns, so that a busy machine or network hurts all of them alike. Then the smallest
memory limit is sought under which each still completes. Writes results.csv, summary.json and index.html to
benchmarks/results/installers/.
"""

from __future__ import annotations

import argparse
import csv
import html
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.summary import figure, write  # noqa: E402 - the checkout is put on the path first

RESULTS = ROOT / "benchmarks/results/installers"
TRIAL = ROOT / "benchmarks/installers/trial.py"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
APPS = ("fastapi_app", "django_app")
TRIAL_SECONDS = 300
COMMAND = "python3 benchmarks/installers/run.py"
Rows = list[dict[str, Any]]
MEASURED = (
    ("cold_seconds", "nothing cached", "s"),
    ("warm_seconds", "the next deploy", "s"),
    ("cold_cpu_seconds", "CPU, nothing cached", "s"),
    ("unreclaimable_mib", "peak of unreclaimable memory", "MiB"),
    ("max_rss_mib", "largest process", "MiB"),
    ("cgroup_peak_mib", "cgroup peak with page cache", "MiB"),
)

LIMITED = {"UV_CONCURRENT_DOWNLOADS": "1", "UV_CONCURRENT_INSTALLS": "1", "UV_CONCURRENT_BUILDS": "1"}


@dataclass(frozen=True)
class Way:
    """One way of installing: the program and the environment that shapes it."""

    name: str
    installer: str
    env: dict[str, str] = field(default_factory=dict)


WAYS = (
    Way("pip", "pip", {"PIP_CACHE_DIR": "/srv/cache"}),
    Way("pip --no-cache-dir", "pip", {"PIP_NO_CACHE_DIR": "1"}),
    Way("uv", "uv", {"UV_CACHE_DIR": "/srv/cache"}),
    Way("uv --no-cache", "uv", {"UV_NO_CACHE": "1"}),
    Way("uv limited", "uv", {"UV_CACHE_DIR": "/srv/cache", **LIMITED}),
    Way("uv limited --no-cache", "uv", {"UV_NO_CACHE": "1", **LIMITED}),
)


def base_image() -> str:
    """The lab's Debian image with python3-venv; builds it where there is none."""
    from lab.image import ensure_base

    return str(ensure_base())


def find_uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise SystemExit("uv: not found beside this Python or on PATH; pip install uv")
    return str(Path(found).resolve())


def container(image: str, uv: str, way: Way, app: str, memory: str, part: str) -> list[str]:
    """One CPU, the limit and no swap beyond it; the registry is reached as the host reaches it."""
    mounts = [
        f"{TRIAL}:/opt/trial.py:ro",
        f"{uv}:/opt/uv:ro",
        f"{ROOT / 'examples' / app / 'requirements.txt'}:/opt/requirements.txt:ro",
        f"{BUNDLE}:{BUNDLE}:ro",
    ]
    passed = {
        "PIP_CERT": BUNDLE,
        "SSL_CERT_FILE": BUNDLE,
        "UV_PYTHON_DOWNLOADS": "never",
        **{
            name: value for name, value in os.environ.items() if name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")
        },
        **way.env,
    }
    command = ["docker", "run", "--rm", "--cpus", "1", "--memory", memory, "--memory-swap", memory]
    for mount in mounts:
        command += ["--volume", mount]
    for name, value in passed.items():
        command += ["--env", f"{name}={value}"]
    return [*command, image, "python3", "/opt/trial.py", way.installer, "/opt/requirements.txt", part]


def trial(image: str, uv: str, way: Way, app: str, memory: str, part: str = "both") -> dict[str, Any]:
    """A row of results; a container that the kernel killed is a result too (completed: false)."""
    try:
        done = subprocess.run(
            container(image, uv, way, app, memory, part),
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
            check=False,
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else {"cold": {"status": done.returncode}}
        if done.returncode not in (0, 137) and not done.stdout:
            raise SystemExit(f"docker run failed: {done.stderr.strip()}")
    except subprocess.TimeoutExpired:
        answer = {"cold": {"status": -1, "message": f"no end within {TRIAL_SECONDS} s"}}
    cold, warm = answer["cold"], answer.get("warm") or {}
    completed = cold["status"] == 0 and (part == "cold" or warm.get("status") == 0)
    row = {
        "app": app,
        "way": way.name,
        "memory": memory,
        "completed": completed,
        "message": cold.get("message") or warm.get("message") or "",
        "cold_seconds": cold.get("seconds"),
        "warm_seconds": warm.get("seconds"),
        "cold_cpu_seconds": cold.get("cpu_seconds"),
        "warm_cpu_seconds": warm.get("cpu_seconds"),
        "unreclaimable_mib": cold.get("unreclaimable_mib"),
        "max_rss_mib": cold.get("max_rss_mib"),
        "cgroup_peak_mib": cold.get("cgroup_peak_mib"),
        "cache_mib": answer.get("cache_mib"),
        "venv_mib": answer.get("venv_mib"),
    }
    outcome = "done" if completed else f"FAILED ({cold['status']}) {row['message'][:60]}"
    print(
        f"{app:12} {way.name:22} {memory:>5}  {outcome:10} cold {row['cold_seconds']} s, "
        f"warm {row['warm_seconds']} s, unreclaimable {row['unreclaimable_mib']} MiB",
        flush=True,
    )
    return row


def rounds(image: str, uv: str, memory: str, repeats: int) -> Rows:
    """Every way takes its turn in every round, forwards and backwards in alternate rounds."""
    rows = []
    for repeat in range(repeats):
        for app in APPS:
            for way in WAYS if repeat % 2 == 0 else reversed(WAYS):
                rows.append({"repeat": repeat, **trial(image, uv, way, app, memory)})
    return rows


def floors(image: str, uv: str, sizes: Sequence[int]) -> Rows:
    """By halves between sizes that completed and sizes that failed twice (once may be the machine's)."""
    rows: Rows = []
    for app in APPS:
        for way in WAYS:
            low, high = 0, len(sizes)
            while low < high:
                middle = (low + high) // 2
                tries = [trial(image, uv, way, app, f"{sizes[middle]}m", "cold")]
                if not tries[0]["completed"]:
                    tries.append(trial(image, uv, way, app, f"{sizes[middle]}m", "cold"))
                rows += [{"repeat": repeat, **row} for repeat, row in enumerate(tries)]
                low, high = (low, middle) if tries[-1]["completed"] else (middle + 1, high)
    return rows


def measured(rows: Rows, app: str, way: str, key: str) -> list[float]:
    """The values of the trials that completed."""
    mine = [row for row in rows if (row["app"], row["way"]) == (app, way) and row["completed"]]
    return [float(row[key]) for row in mine if row[key] is not None]


def smallest(low: Rows, app: str, way: str) -> int | None:
    """The smallest limit, in MiB, under which the way completed."""
    mine = [row for row in low if (row["app"], row["way"]) == (app, way) and row["completed"]]
    return min((int(row["memory"].rstrip("m")) for row in mine), default=None)


def figures(rows: Rows, low: Rows) -> list[dict[str, Any]]:
    """Medians of every way, each against pip, and how little memory each can do with."""
    found = []
    for app in APPS:
        for key, words, unit in MEASURED:
            pip = measured(rows, app, "pip", key)
            for way in WAYS:
                values = measured(rows, app, way.name, key)
                if not values:
                    continue
                value, name = round(statistics.median(values), 2), f"{app}: {way.name}: {words}"
                found.append(figure(name, value, unit, COMMAND, interval=(min(values), max(values))))
                if pip and way.name in ("uv", "uv limited"):
                    ratio = round(value / statistics.median(pip), 2)
                    found.append(figure(f"{app}: {way.name} / pip: {words}", ratio, "ratio", COMMAND))
        for way in WAYS:
            least = smallest(low, app, way.name)
            if least is not None:
                name = f"{app}: {way.name}: smallest limit it completed under"
                found.append(figure(name, least, "MiB", COMMAND, bound="<= 170", holds=least <= 170))
    return found


def read(path: Path) -> tuple[Rows, Rows]:
    """The rounds and the way down of an earlier run."""
    parts: dict[str, Rows] = {"rounds": [], "floor": []}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            values: dict[str, Any] = {name: value or None for name, value in row.items()}
            parts[row["part"]].append({**values, "completed": row["completed"] == "True"})
    return parts["rounds"], parts["floor"]


def record(rows: Rows, low: Rows) -> None:
    """Written after every part, so that an interrupted run is not lost."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["part", *rows[0]], lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        table.writerows({**row, "part": "rounds"} for row in rows)
        table.writerows({**row, "part": "floor"} for row in low)


def page(found: list[dict[str, Any]]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(one['figure'])}</td><td>{one['value']}</td><td>{one['unit']}</td>"
        f"<td>{one['interval'] or ''}</td></tr>\n"
        for one in found
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Installers</title></head><body>'
        "<h1>uv and pip on small hosts</h1><p>Medians; the interval is the least and the greatest.</p>"
        f"<table><tr><th>figure</th><th>value</th><th>unit</th><th>interval</th></tr>\n{cells}</table>"
        "</body></html>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds at --memory (default: 5)")
    parser.add_argument("--memory", default="1024m", help="limit of the rounds (default: 1024m)")
    parser.add_argument("--sizes", default="48,64,80,96,128,170,256", help="limits tried, MiB, ascending")
    parser.add_argument("--limits-only", action="store_true", help="keep the rounds of results.csv")
    parser.add_argument("--again", action="store_true", help="only summarise results.csv again")
    parser.add_argument("--image", default="", help="a Debian image with python3-venv (default: the lab's)")
    given = parser.parse_args()
    if given.repeats < 1:
        parser.error(f"--repeats {given.repeats}: 1 or more")
    if given.again:
        rows, low = read(RESULTS / "results.csv")
    else:
        image, uv = given.image or base_image(), find_uv()
        kept = read(RESULTS / "results.csv")[0] if given.limits_only else []
        rows = kept or rounds(image, uv, given.memory, given.repeats)
        record(rows, [])
        low = floors(image, uv, sorted(int(size) for size in given.sizes.split(",")))
        record(rows, low)
    found = figures(rows, low)
    write("installers", found)
    (RESULTS / "index.html").write_text(page(found))
    print(f"wrote {RESULTS.relative_to(ROOT)}/summary.json")


if __name__ == "__main__":
    main()
