"""What was asked for, as figures: failed requests, latency in a deploy, waits, and what people have today."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from benchmarks.deploys.cells import CLASSES, STRATEGIES
from benchmarks.summary import figure

COMMAND, QUICK_COMMAND = "make bench-deploys", "QUICK=1 make bench-deploys"
#: What is asked of a whole run; of a quick one 50,000 requests.
REQUESTS, DEPLOYS, QUICK_REQUESTS = 1_000_000, 100, 50_000
P99_RATIO, QUEUE_SLACK, BEYOND_BOOT = 2.0, 1.0, 5.0
Cell = dict[str, Any]
Cells = Sequence[Cell]


def versions(farrier: str) -> dict[str, str]:
    """What was measured, by version."""
    names = ("gunicorn", "uvicorn", "uvicorn-worker", "gevent", "granian")
    return {
        "farrier": farrier,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def failed(cell: Cell) -> int:
    """Requests of a cell that failed, by the definition in docs/deploys.md."""
    return int(cell["counts"]["sent"] - cell["counts"]["ok"])


def is_ours(cell: Cell) -> bool:
    return bool(cell["cell"]["ours"])


def counted(cells: Cells) -> list[Cell]:
    """Those whose generator was not at its limit and whose core was their own."""
    return [cell for cell in cells if not cell["not_counted"]]


def deployed(cell: Cell) -> list[dict[str, Any]]:
    """The deploys of a cell that went through."""
    return [one for one in cell["deploys"] if not one["refused"]]


def p99_ratio(cell: Cell) -> float | None:
    """p99 of the requests due during deploys, over that of the others."""
    if not cell["deploys"] or not cell["steady"]["p99"]:
        return None
    return round(float(cell["during"]["p99"] / cell["steady"]["p99"]), 2)


def beyond_boot(deploy: dict[str, Any]) -> float | None:
    """Seconds from the command to the first new answer, less what the app itself took to import."""
    if deploy["first_new_answer"] is None:
        return None
    return round(float(deploy["first_new_answer"] - deploy["app_boot"]), 3)


def queue_excess(deploy: dict[str, Any]) -> float | None:
    """Seconds by which the longest wait is above the old colour's drain and the new one's boot."""
    colours = deploy["colours"]
    if "boot" not in colours or "drain" not in colours:
        return None
    return round(float(deploy["longest"] - colours["boot"] - colours["drain"]), 3)


def figures(cells: Cells, quick: bool) -> list[dict[str, Any]]:
    """All of them, from cells that count."""
    good = counted(cells)
    mine = [cell for cell in good if is_ours(cell)]
    command = QUICK_COMMAND if quick else COMMAND
    found = [*losses(mine, quick, command)]
    if not quick:
        for strategy in ("overlap", "rolling"):
            found += ratios(mine, strategy, command)
        found += waits(mine, command)
    found += today([cell for cell in good if not is_ours(cell)], command)
    return found


def losses(mine: Cells, quick: bool, command: str) -> list[dict[str, Any]]:
    """Failed, sent, deploys; and recycling by itself."""
    sent = sum(cell["counts"]["sent"] for cell in mine)
    lost = sum(failed(cell) for cell in mine)
    deploys = sum(len(deployed(cell)) for cell in mine)
    least = QUICK_REQUESTS if quick else REQUESTS
    asked = f"0 of {least:,}" + ("" if quick else f" in {DEPLOYS} deploys")
    enough = sent >= least and (quick or deploys >= DEPLOYS)
    recycling = [cell for cell in mine if cell["cell"]["strategy"] == "recycling"]
    recycled = sum(cell["recycled"] for cell in recycling)
    lost_in_recycling = sum(map(failed, recycling))
    in_recycling = sum(cell["counts"]["sent"] for cell in recycling)
    return [
        figure(
            "failed requests", lost, f"of {sent:,}", command, bound=asked, holds=lost == 0 and enough
        ),
        figure("requests", sent, "requests", command, bound=f">= {least:,}", holds=sent >= least),
        figure(
            "deploys and reloads", deploys, "deploys", command,
            bound=None if quick else f">= {DEPLOYS}", holds=None if quick else deploys >= DEPLOYS,
        ),
        figure("workers recycled (max_requests=500)", recycled, "workers", command),
        figure(
            "failed requests while workers are recycled", lost_in_recycling, f"of {in_recycling:,}", command,
            bound="0", holds=recycled > 0 and not lost_in_recycling,
        ),
    ]  # fmt: skip


def ratios(mine: Cells, strategy: str, command: str) -> list[dict[str, Any]]:
    """The worst class, with the best and the worst as its interval."""
    found = [
        ratio
        for cell in mine
        if cell["cell"]["strategy"] == strategy and (ratio := p99_ratio(cell)) is not None
    ]
    if not found:
        return []
    return [
        figure(
            f"p99 during {strategy} / steady, the worst class", max(found), "ratio", command,
            interval=(min(found), max(found)), bound=f"<= {P99_RATIO:g}", holds=max(found) <= P99_RATIO,
        )
    ]  # fmt: skip


def waits(mine: Cells, command: str) -> list[dict[str, Any]]:
    """Of queues the longest wait, of deploys the time to the first new answer."""
    excess, first = [], []
    for cell in mine:
        for deploy in deployed(cell):
            if cell["cell"]["strategy"] == "queue" and (over := queue_excess(deploy)) is not None:
                excess.append(over)
            if cell["cell"]["strategy"] != "reload" and (after := beyond_boot(deploy)) is not None:
                first.append(after)
    rows = (
        ("longest wait in a queue beyond drain and boot", excess, QUEUE_SLACK),
        ("command to first new answer beyond the app's boot, the slowest", first, BEYOND_BOOT),
    )
    return [
        figure(
            name, max(values), "s", command,
            interval=(min(values), max(values)), bound=f"<= {bound:g} s", holds=max(values) <= bound,
        )
        for name, values, bound in rows
        if values
    ]  # fmt: skip


def today(theirs: Cells, command: str) -> list[dict[str, Any]]:
    """What the same load loses elsewhere: each with how often something was done."""
    found = []
    for cell in theirs:
        count = len(cell["deploys"])
        times = f"{count} time{'s' if count > 1 else ''}" if count else f"{cell['recycled']} workers recycled"
        name = f"failed requests today: {cell['cell']['label']}, {times}"
        found.append(figure(name, failed(cell), f"of {cell['counts']['sent']:,}", command))
    return found


def matrix(cells: Cells) -> dict[str, dict[str, Cell]]:
    """Our cells by class and strategy."""
    wanted = (*STRATEGIES, "recycling")
    return {
        name: {
            cell["cell"]["strategy"]: cell
            for cell in cells
            if is_ours(cell) and cell["cell"]["worker_class"] == name and cell["cell"]["strategy"] in wanted
        }
        for name in CLASSES
    }
