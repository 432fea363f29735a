"""From a generator's records to what is asked: rows by second, percentiles, what each deploy cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deploys.load import IDLE_CLOSED, OUTCOMES

RECORDS = np.dtype(
    [
        ("due", "<f8"), ("late", "<f4"), ("latency", "<f4"),
        ("group", "u1"), ("outcome", "u1"), ("new", "u1"), ("server", "<u2"),
    ]
)  # fmt: skip
KINDS = OUTCOMES[1:]
#: A generator beyond these was itself at its limit: what it measured is not counted.
CPU_MOST, LATE_MOST = 0.8, 0.020


@dataclass
class Run:
    """One run of the generator: its records, what it says of itself, and what they are of."""

    records: np.ndarray[Any, Any]
    result: dict[str, Any]
    groups: Sequence[str]
    zero: float
    """Unix time of the monotonic clock's zero."""
    idle_closed: int = field(init=False)

    def __post_init__(self) -> None:
        self.idle_closed = int(np.sum(self.records["outcome"] == IDLE_CLOSED))
        self.records = self.records[self.records["outcome"] != IDLE_CLOSED]
        self.records["due"] += self.zero

    @classmethod
    def read(cls, path: Path, result: dict[str, Any], groups: Sequence[str], zero: float) -> Run:
        return cls(np.fromfile(path, dtype=RECORDS).copy(), result, groups, zero)

    @property
    def at_its_limit(self) -> str:
        """Why this run says more of the generator than of the server, or nothing."""
        if self.result["exhausted"]:
            return "more connections were open than the generator can hold: the server is overloaded"
        late = quantile(self.records["late"], 0.99)
        if self.result["cpu"] > CPU_MOST:
            return f"the generator took {self.result['cpu']:.0%} of its core"
        if late > LATE_MOST:
            return f"the generator sent late: p99 {late * 1000:.0f} ms"
        return ""


def quantile(values: Any, share: float) -> float:
    """Seconds; 0 where there is nothing. The nearest value that was measured, none between two."""
    if not len(values):
        return 0.0
    return float(np.quantile(values, share, method="higher"))


def counts(records: Any) -> dict[str, int]:
    """Sent, ok, and failed by kind."""
    by_kind = np.bincount(records["outcome"], minlength=len(OUTCOMES))
    return {"sent": len(records), **{name: int(by_kind[code]) for code, name in enumerate(OUTCOMES)}}


def latencies(records: Any) -> dict[str, float]:
    """Of answered requests, from when they were due, in seconds."""
    answered = records["latency"][records["outcome"] == 0]
    return {
        "p50": round(quantile(answered, 0.5), 5),
        "p99": round(quantile(answered, 0.99), 5),
        "max": round(float(answered.max()) if len(answered) else 0.0, 5),
    }


def seconds(run: Run) -> list[dict[str, Any]]:
    """One row for each second and group; `second` counts from the first due time."""
    rows: list[dict[str, Any]] = []
    records = run.records
    first = float(records["due"].min())
    whole = np.floor(records["due"] - first).astype(int)
    for second in range(int(whole.max()) + 1):
        for index, name in enumerate(run.groups):
            found = records[(whole == second) & (records["group"] == index)]
            rows.append({"second": second, "group": name, **counts(found), **latencies(found)})
    return rows


def trace(run: Run, step: float = 0.25) -> dict[str, list[float]]:
    """What a plot shows: median, p99, slowest and failed of all requests due in each quarter of a second."""
    records = run.records
    first = float(records["due"].min())
    part = np.floor((records["due"] - first) / step).astype(int)
    found: dict[str, list[float]] = {"at": [], "p50": [], "p99": [], "max": [], "failed": []}
    for number in range(int(part.max()) + 1):
        inside = records[part == number]
        found["at"].append(round((number + 0.5) * step, 3))
        for key, value in latencies(inside).items():
            found[key].append(round(value, 4))
        found["failed"].append(int(np.sum(inside["outcome"] != 0)))
    return found


def between(records: Any, windows: Sequence[tuple[float, float]]) -> Any:
    """Which records are due inside one of the windows."""
    inside = np.zeros(len(records), dtype=bool)
    for began, ended in windows:
        inside |= (records["due"] >= began) & (records["due"] <= ended)
    return inside


def first_new_answer(run: Run, asked: float, release: str) -> tuple[float, float] | None:
    """Seconds from the command to the first answer of the new processes on a new connection, and their boot.

    New are the processes that had not answered before (of `release`, where the deploy changed it).
    """
    records, servers = run.records, run.result["servers"]
    good = records[(records["outcome"] == 0) & (records["new"] == 1)]
    answered = good["due"] + good["latency"]
    before = {servers[number]["worker"] for number in np.unique(good["server"][answered < asked])}
    fresh = [
        number
        for number, one in enumerate(servers)
        if one["worker"] not in before and release in ("", one["release"])
    ]
    found = np.isin(good["server"], fresh) & (answered >= asked)
    if not found.any():
        return None
    at = int(np.argmin(np.where(found, answered, np.inf)))
    return float(answered[at] - asked), float(servers[good["server"][at]]["boot"])


def colour_times(journal: Sequence[dict[str, Any]], asked: float, ended: float) -> dict[str, float]:
    """How long the new colour took to its READY and the old one to drain, as their own arbiters say (s).

    A queue's gate is the new colour too, before; it is its last start that counts.
    """
    inside = [event for event in journal if asked - 0.1 <= event["at"] <= ended + 0.5]
    ready = [event for event in inside if event["event"] == "ready"]
    if not ready:
        return {}
    new = ready[-1]
    found = {"boot": float(new["seconds"]), "ready_at": new["at"]}
    stopping, stopped = (
        [event["at"] for event in inside if event["event"] == name and event["unit"] != new["unit"]]
        for name in ("stopping", "stopped")
    )
    if stopping and stopped:
        found |= {"drain": round(stopped[-1] - stopping[0], 3), "stopping_at": stopping[0]}
        found["stopped_at"] = stopped[-1]
    return found
