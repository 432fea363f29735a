"""The one form in which every benchmark states its figures: ``results/<name>/summary.json``.

A list of ``{figure, value, unit, interval, bound, holds, command, machine, date, version}``; ``interval`` is
``[low, high]`` or null, ``bound`` is what was asked for (text) or null, ``holds`` whether it was met or null.

    python3 benchmarks/summary.py        (make figures) prints all of them as one table
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KEYS = ("figure", "value", "unit", "interval", "bound", "holds", "command", "machine", "date", "version")


def machine() -> str:
    """This machine in a phrase: processor count, architecture, memory, kernel."""
    return f"{os.cpu_count()} CPUs {platform.machine()}, {memory_gib()} GiB, Linux {platform.release()}"


def memory_gib() -> int:
    """This machine's memory, to the next GiB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def version() -> str:
    """The project's version, from its own source."""
    text = (ROOT / "farrier" / "__init__.py").read_text()
    return text.partition('__version__ = "')[2].partition('"')[0]


def figure(
    name: str,
    value: float,
    unit: str,
    command: str,
    *,
    interval: tuple[float, float] | None = None,
    bound: str | None = None,
    holds: bool | None = None,
) -> dict[str, Any]:
    """One figure with where and when it was measured."""
    return {
        "figure": name,
        "value": value,
        "unit": unit,
        "interval": list(interval) if interval else None,
        "bound": bound,
        "holds": holds,
        "command": command,
        "machine": machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "version": version(),
    }


def write(benchmark: str, figures: list[dict[str, Any]]) -> Path:
    """Write a benchmark's summary; returns its path."""
    folder = RESULTS / benchmark
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "summary.json"
    path.write_text(json.dumps(figures, indent=2) + "\n")
    return path


def table(results: Path = RESULTS) -> str:
    """Every committed figure as one table, by benchmark."""
    lines: list[str] = []
    for path in sorted(results.glob("*/summary.json")):
        lines.append(path.parent.name)
        for row in json.loads(path.read_text()):
            missing = [key for key in KEYS if key not in row]
            if missing:
                raise SystemExit(f"{path.relative_to(ROOT)}: a figure lacks {', '.join(missing)}")
            lines.append("  " + line(row))
    return "\n".join(lines) if lines else f"no figures yet in {results.relative_to(ROOT)}"


def line(row: dict[str, Any]) -> str:
    """One figure as a line: value with interval, what was asked for, whether it holds, how to print it."""
    value = row["value"]
    shown = f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
    if row["interval"]:
        shown += f" [{row['interval'][0]:g} .. {row['interval'][1]:g}]"
    verdict = {True: "holds", False: "FALLS SHORT", None: ""}[row["holds"]]
    asked = f"asked: {row['bound']}, {verdict}" if row["bound"] else verdict
    return (
        f"{row['figure']:<58} {shown} {row['unit']:<10} {asked:<34} {row['date']}  {row['command']}".rstrip()
    )


if __name__ == "__main__":
    print(table())
    sys.exit(0)
