"""A cell's result out of its samples, and the figures of all cells for summary.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import summary
from benchmarks.sizing import judge, rules
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
        return judge.typical(self.windows, "p99")

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
    """The plan beside another point: the plan's figures over its."""

    seen: Seen
    throughput: Ratio
    p99: Ratio
    ahead: str
    """plan, rule, or empty for within the interval."""


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

    @property
    def holds(self) -> bool:
        """Whether the plan is as close to the best as it has to be."""
        return self.regret.throughput.value >= THROUGHPUT_AT_LEAST and self.regret.p99.value <= P99_AT_MOST

    @property
    def behind(self) -> list[str]:
        """Rules (not other servers) that are ahead of the plan."""
        known = {rule.key for rule in rules.RULES}
        return [key for key, one in self.rules.items() if key in known and one.ahead == "rule"]


def measured(kept: Store, cell: Cell, every_cell: bool = False) -> dict[Point, Seen]:
    """Every point of a cell that got its windows, or never came up."""
    found = {}
    for point, place in kept.places(cell, every_cell).items():
        windows = kept.windows(place)
        if windows or not place["up"]:
            found[point] = Seen(point, place, windows)
    return found


def best_of(found: dict[Point, Seen]) -> Point | None:
    """The lowest p99 within 5 % of the top throughput, of what farrier served."""
    ours = {point: seen.windows for point, seen in found.items() if point.server == "farrier" and seen.is_up}
    ranked = judge.order(ours)
    return ranked[0] if ranked else None


def result(kept: Store, cell: Cell, planner: Planner, every_cell: bool = False) -> Result | None:
    """The cell's result; None where its plan or its best was not measured."""
    found = measured(kept, cell, every_cell)
    best, chosen = best_of(found), planner.point(cell)
    if best is None or chosen not in found:
        return None
    plan = found[chosen]
    compared = {
        key: compare(plan, found[point]) for key, point in rules.rules_of(cell).items() if point in found
    }
    points = sorted(found.values(), key=_by_figures)
    return Result(
        cell, plan, found[best], compare(plan, found[best]), compared, points,
        planner.measurement(cell), planner.plan(cell).verdict.level,
    )  # fmt: skip


def _by_figures(seen: Seen) -> tuple[float, float]:
    return (-seen.throughput, seen.p99)


def compare(plan: Seen, other: Seen) -> Compared:
    if plan.point == other.point:
        one = Ratio(1.0, 1.0, 1.0, len(plan.windows))
        return Compared(other, one, one, "")
    throughput = judge.ratio(plan.windows, other.windows, "throughput")
    p99 = judge.ratio(plan.windows, other.windows, "p99")
    if not plan.is_up:
        throughput = Ratio(0.0 if other.is_up else 1.0, 0.0, 1.0, 0)
        return Compared(other, throughput, p99, "rule" if other.is_up else "")
    return Compared(other, throughput, p99, judge.verdict(throughput, p99))


def figures(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For summary.json: the worst regret over all cells, and each rule beside the plan."""
    if not results:
        return []
    count = len(results)
    slow = min(results, key=lambda one: one.regret.throughput.value)
    late = max(results, key=lambda one: one.regret.p99.value)
    bad = [one for one in results if not one.holds]
    behind = [one for one in results if one.behind]
    found = [
        summary.figure(
            f"plan's throughput / best's, worst of {count} cells ({slow.cell.name})",
            round(slow.regret.throughput.value, 3), "", COMMAND, interval=_interval(slow.regret.throughput),
            bound=f">= {THROUGHPUT_AT_LEAST}", holds=slow.regret.throughput.value >= THROUGHPUT_AT_LEAST,
        ),
        summary.figure(
            f"plan's p99 / best's, worst of {count} cells ({late.cell.name})",
            round(late.regret.p99.value, 3), "", COMMAND, interval=_interval(late.regret.p99),
            bound=f"<= {P99_AT_MOST}", holds=late.regret.p99.value <= P99_AT_MOST,
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
    for rule in (*rules.RULES, *rules.OTHERS):
        found += _rule_figures(rule, [one for one in results if rule.key in one.rules])
    return found


def _rule_figures(rule: rules.Rule, results: Sequence[Result]) -> list[dict[str, Any]]:
    if not results:
        return []
    is_rule = not rule.other_server
    compared = [one.rules[rule.key] for one in results]
    ahead = sum(one.ahead == "rule" for one in compared)
    never = sum(not one.seen.is_up for one in compared)
    shares = [1 / one.throughput.value if one.throughput.value else math.inf for one in compared]
    middle = sorted(shares)[len(shares) // 2]
    return [
        summary.figure(
            f"{rule.title}: cells of {len(results)} in which it is ahead", ahead, "cells", COMMAND,
            bound="0" if is_rule else None, holds=not ahead if is_rule else None,
        ),
        summary.figure(
            f"{rule.title}: its throughput / the plan's, median of {len(results)} cells ({never} never up)",
            round(middle, 3), "", COMMAND,
        ),
    ]  # fmt: skip


def _interval(one: Ratio) -> tuple[float, float] | None:
    if math.isinf(one.high) or math.isinf(one.low):
        return None
    return round(one.low, 3), round(one.high, 3)
