"""From windows to verdicts: the best point of a cell, the plan's regret, and who is ahead of whom.

Points are compared round by round: in a round each was measured once, within minutes, in an order drawn anew,
so what drifts on the machine hits all of them. A ratio is the geometric mean over the rounds that two points
share, with a 95 % interval by Student's t on the logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any

from benchmarks.closed_loop import PATIENCE

#: Points within this share of the top throughput count as equal in it.
EQUAL = 0.05
THROUGHPUT_AT_LEAST, P99_AT_MOST = 0.95, 1.25
#: Seconds that stand for the p99 of what answered nothing: as long as a client waits before it gives up.
NEVER = PATIENCE

#: Two-sided 95 % quantiles of Student's t, by degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)


@dataclass(frozen=True)
class Ratio:
    """One point's figure over another's, with its 95 % interval."""

    value: float
    low: float
    high: float
    rounds: int


def student(freedom: int) -> float:
    """The quantile for so many degrees of freedom; 1.96 stands for many."""
    if freedom < 1:
        return math.inf
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.6 / freedom


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval."""
    if len(values) < 2:
        return (values[0], -math.inf, math.inf) if values else (0.0, 0.0, 0.0)
    half = student(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    middle = mean(values)
    return middle, middle - half, middle + half


def ratio(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], figure: str) -> Ratio:
    """`figure` (throughput, p99) of our windows over theirs, paired by round.

    Where they share no two rounds (one was measured alone, because the kernel kept killing its workers), the
    windows are taken as they are. Where a window answered nothing, which has no logarithm, the medians stand
    for all and there is no interval; infinity where the median of theirs is nothing and that of ours is not.
    """
    by_round = {one["round"]: _of(one, figure) for one in theirs}
    pairs = [(_of(one, figure), by_round[one["round"]]) for one in ours if one["round"] in by_round]
    if len(pairs) < 2:
        pairs = list(
            zip([_of(one, figure) for one in ours], [_of(one, figure) for one in theirs], strict=False)
        )
    if not pairs or any(own <= 0 or other <= 0 for own, other in pairs):
        own, other = typical(ours, figure), typical(theirs, figure)
        value = own / other if other else math.inf if own else 1.0
        return Ratio(value, value, value, len(pairs))
    middle, low, high = interval([math.log(own / other) for own, other in pairs])
    return Ratio(math.exp(middle), math.exp(low), _exp(high), len(pairs))


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def typical(windows: Sequence[dict[str, Any]], figure: str) -> float:
    """The median over windows; 0.0 without any."""
    return float(median([_of(one, figure) for one in windows])) if windows else 0.0


def _of(window: dict[str, Any], figure: str) -> float:
    """A window's figure; a p99 over no request at all is no quick one."""
    value = float(window[figure])
    return NEVER if figure == "p99" and value <= 0 else value


def order(points: dict[Any, list[dict[str, Any]]]) -> list[Any]:
    """Points, best first: those within EQUAL of the top throughput by p99, then the rest by throughput."""
    alive = {one: windows for one, windows in points.items() if typical(windows, "throughput") > 0}
    if not alive:
        return []
    top = max(typical(windows, "throughput") for windows in alive.values())
    near = [one for one in alive if typical(alive[one], "throughput") >= (1 - EQUAL) * top]
    rest = [one for one in alive if one not in near]
    return sorted(near, key=lambda one: typical(alive[one], "p99")) + sorted(
        rest, key=lambda one: -typical(alive[one], "throughput")
    )


def verdict(throughput: Ratio, p99: Ratio) -> str:
    """Who is ahead, from the plan's figures over a rule's: "plan", "rule", or "" for within the interval.

    One is ahead of the other if its throughput is higher beyond the interval, or if its throughput is at
    least 95 % of the other's and its p99 is lower beyond the interval. Where both are so (one in
    throughput, the other in p99, both by less than 5 % of throughput), throughput decides if it differs by
    more than 5 %, and else latency: nobody feels 5 % of throughput, everybody feels the wait.
    """
    if throughput.value == math.inf:
        return "plan"
    if throughput.value == 0:
        return "rule"
    if throughput.value >= 1 / (1 - EQUAL) and throughput.low > 1:
        return "plan"
    if throughput.value <= 1 - EQUAL and throughput.high < 1:
        return "rule"
    if p99.high < 1 and throughput.value >= 1 - EQUAL:
        return "plan"
    if p99.low > 1 and throughput.value <= 1 / (1 - EQUAL):
        return "rule"
    if throughput.low > 1:
        return "plan"
    return "rule" if throughput.high < 1 else ""
