"""A cell's result out of its samples, and the figures of all cells for summary.json."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import summary
from benchmarks.sizing import judge, rules, store
from benchmarks.sizing.cells import Cell, Point
from benchmarks.sizing.judge import P99_AT_MOST, THROUGHPUT_AT_LEAST, Ratio
from benchmarks.sizing.plans import Planner
from benchmarks.sizing.store import Store

COMMAND = "make bench-sizing"


@dataclass(frozen=True)
class Seen:
    """A point as it was seen in a cell: its place and the windows that count."""

    point: Point
    place: dict[str, Any]
    windows: list[dict[str, Any]]

    @property
    def throughput(self) -> float:
        return judge.typical(self.windows, "throughput")

    @property
    def p99(self) -> float:
        return judge.typical(self.windows, "p99") if self.is_up else judge.NEVER

    @property
    def is_up(self) -> bool:
        return bool(self.place["up"]) and self.throughput > 0

    @property
    def outcome(self) -> str:
        """In a few words: how it went, where there is more to say than two numbers."""
        kills = self.place["oom_kills"]
        if not self.is_up:
            return f"never up: {kills} OOM kills" if kills else "never up"
        return f"{kills} OOM kills" if kills else ""


@dataclass(frozen=True)
class Compared:
    """The plan beside another point: the plan's figures over its, and its own regret."""

    seen: Seen
    throughput: Ratio
    p99: Ratio
    ahead: str
    """plan, rule, or empty for within the interval."""
    own_throughput: Ratio
    """Its own over the best's, as the plan's regret is the plan's over the best's."""
    own_p99: Ratio


@dataclass(frozen=True)
class Result:
    """One cell."""

    cell: Cell
    plan: Seen
    best: Seen
    regret: Compared
    rules: dict[str, Compared]
    points: list[Seen]
    measurement: dict[str, Any]
    verdict: str
    """What the plan says of the size: comfortable, tight, not viable."""
    sessions: list[dict[str, Any]]
    """Where and when its samples were measured."""

    @property
    def holds(self) -> bool:
        """Whether the plan is up and as close to the best as it has to be."""
        return (
            self.plan.is_up
            and self.regret.throughput.value >= THROUGHPUT_AT_LEAST
            and self.regret.p99.value <= P99_AT_MOST
        )

    @property
    def behind(self) -> list[str]:
        """Rules (not other servers) that are ahead of the plan."""
        known = {rule.key for rule in rules.RULES}
        return [key for key, one in self.rules.items() if key in known and one.ahead == "rule"]


def measured(kept: Store, cell: Cell, every_cell: bool = False) -> dict[Point, Seen]:
    """Every point of a cell that got all its windows, or never came up."""
    found, repeats = {}, kept.repeats(cell)
    for point, place in kept.places(cell, every_cell).items():
        windows = kept.windows(place, cell)
        if len(windows) >= repeats or not place["up"]:
            found[point] = Seen(point, place, windows)
    return found


def best_of(found: dict[Point, Seen]) -> Point | None:
    """The lowest p99 within 5 % of the top throughput, of what farrier served."""
    ours = {point: seen.windows for point, seen in found.items() if point.server == "farrier" and seen.is_up}
    ranked = judge.order(ours)
    return ranked[0] if ranked else None


def result(kept: Store, cell: Cell, planner: Planner, every_cell: bool = False) -> Result | None:
    """The cell's result; None where its plan was not measured.

    Where nothing of ours came up, the plan stands for the best too, and the cell does not hold.
    """
    found = measured(kept, cell, every_cell)
    chosen = planner.point(cell)
    if chosen not in found:
        return None
    plan = found[chosen]
    best = found[best_of(found) or chosen]
    compared = {
        key: compare(plan, found[point], best)
        for key, point in rules.rules_of(cell).items()
        if point in found
    }
    points = sorted(found.values(), key=_by_figures)
    return Result(
        cell, plan, best, compare(plan, best, best), compared, points,
        planner.measurement(cell), planner.plan(cell).verdict.level, list(kept.counted(cell).values()),
    )  # fmt: skip


def _by_figures(seen: Seen) -> tuple[float, float]:
    return (-seen.throughput, seen.p99)


def compare(plan: Seen, other: Seen, best: Seen) -> Compared:
    throughput, p99 = over(plan, other)
    if plan.point == other.point or not (plan.is_up or other.is_up):
        ahead = ""
    elif plan.is_up and other.is_up:
        ahead = judge.verdict(throughput, p99)
    else:
        ahead = "plan" if plan.is_up else "rule"
    return Compared(other, throughput, p99, ahead, *over(other, best))


def over(one: Seen, other: Seen) -> tuple[Ratio, Ratio]:
    """Throughput and p99 of one point over another's. What is not up has none of the first, and the patience
    of a client as the second."""
    if one.point == other.point:
        value = 1.0 if one.is_up else 0.0
        return Ratio(value, value, value, len(one.windows)), Ratio(1.0, 1.0, 1.0, len(one.windows))
    if one.is_up and other.is_up:
        return judge.ratio(one.windows, other.windows, "throughput"), judge.ratio(
            one.windows, other.windows, "p99"
        )
    share = 0.0 if not one.is_up else math.inf
    late = one.p99 / other.p99
    return Ratio(share, share, share, 0), Ratio(late, late, late, 0)


# --- for summary.json -----------------------------------------------------------------------------------


def figures(results: Sequence[Result], expected: Sequence[Cell] | None = None) -> list[dict[str, Any]]:
    """For summary.json: what was measured of what was `expected`, the worst regret over all cells, and each
    rule beside the plan and beside the best."""
    if not results:
        return []
    cells = [one.cell for one in results] if expected is None else expected
    found = _measured_figures(results, cells) + _plan_figures(results)
    for rule in (*rules.RULES, *rules.OTHERS):
        found += _rule_figures(rule, [one for one in results if rule.key in one.rules])
    told = provenance(results)
    return [one | told for one in found]


def provenance(results: Sequence[Result]) -> dict[str, str]:
    """Machines, dates and versions by which the samples were measured, each once."""
    sessions = sorted(
        (one for result in results for one in result.sessions), key=lambda one: str(one["session"])
    )
    dates = list(dict.fromkeys(one["date"] for one in sessions))
    return {
        "machine": "; ".join(dict.fromkeys(store.phrase(one["machine"]) for one in sessions)),
        "date": dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        "version": ", ".join(dict.fromkeys(one["version"] for one in sessions)),
    }


def _measured_figures(results: Sequence[Result], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    comparisons = sum(len(rules.rules_of(cell)) for cell in cells)
    made = sum(len(one.rules) for one in results)
    return [
        summary.figure(
            "cells measured", len(results), "cells", COMMAND,
            bound=str(len(cells)), holds=len(results) == len(cells),
        ),
        summary.figure(
            "rule comparisons made", made, "", COMMAND, bound=str(comparisons), holds=made == comparisons
        ),
    ]  # fmt: skip


def _plan_figures(results: Sequence[Result]) -> list[dict[str, Any]]:
    count = len(results)
    slow = min(results, key=lambda one: one.regret.throughput.value)
    late = max(results, key=lambda one: one.regret.p99.value)
    down = [one for one in results if not one.plan.is_up]
    bad = [one for one in results if not one.holds]
    behind = [one for one in results if one.behind]
    return [
        summary.figure(
            f"plan's throughput / best's, worst of {count} cells ({slow.cell.name})",
            round(slow.regret.throughput.value, 3), "", COMMAND, interval=_interval(slow.regret.throughput),
            bound=f">= {THROUGHPUT_AT_LEAST}", holds=slow.regret.throughput.value >= THROUGHPUT_AT_LEAST,
        ),
        summary.figure(
            f"plan's p99 / best's, worst of {count} cells ({late.cell.name})",
            round(late.regret.p99.value, 3), "", COMMAND, interval=_interval(late.regret.p99),
            bound=f"<= {P99_AT_MOST}", holds=late.regret.p99.value <= P99_AT_MOST and not down,
        ),
        summary.figure(
            f"cells of {count} in which the plan's regret is above that", len(bad), "cells", COMMAND,
            bound="0", holds=not bad,
        ),
        summary.figure(
            f"cells of {count} in which a rule is ahead of the plan", len(behind), "cells", COMMAND,
            bound="0", holds=not behind,
        ),
    ]  # fmt: skip


def _rule_figures(rule: rules.Rule, results: Sequence[Result]) -> list[dict[str, Any]]:
    if not results:
        return []
    count, is_rule = len(results), not rule.other_server
    compared = [one.rules[rule.key] for one in results]
    ahead = sum(one.ahead == "rule" for one in compared)
    up = [one for one in compared if one.seen.is_up]
    shares = [one.own_throughput.value for one in compared]
    late = [one.own_p99.value for one in up]
    values: list[tuple[str, float, str]] = [
        (f"cells of {count} in which it never came up", count - len(up), "cells"),
        (f"its throughput / the best's, median of {count} cells", statistics.median(shares), ""),
        (f"its throughput / the best's, worst of {count} cells", min(shares), ""),
    ]
    if late:
        values += [
            (
                f"its p99 / the best's, median of the {len(up)} cells where it is up",
                statistics.median(late),
                "",
            ),
            (f"its p99 / the best's, worst of the {len(up)} cells where it is up", max(late), ""),
        ]
    return [
        summary.figure(
            f"{rule.title}: cells of {count} in which it is ahead", ahead, "cells", COMMAND,
            bound="0" if is_rule else None, holds=not ahead if is_rule else None,
        ),
        *(
            summary.figure(f"{rule.title}: {name}", round(value, 3), unit, COMMAND)
            for name, value, unit in values
            if math.isfinite(value)
        ),
    ]  # fmt: skip


def _interval(one: Ratio) -> tuple[float, float] | None:
    if math.isinf(one.high) or math.isinf(one.low):
        return None
    return round(one.low, 3), round(one.high, 3)
