"""Who is ahead of whom, and which point is the best of a cell."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.sizing import judge
from benchmarks.sizing.judge import Ratio


def windows(throughput: list[float], p99: list[float], session: str = "a") -> list[dict[str, Any]]:
    return [
        {"round": f"{session}:{number}", "throughput": one, "p99": other}
        for number, (one, other) in enumerate(zip(throughput, p99, strict=True))
    ]


def test_the_best_is_the_lowest_p99_within_five_per_cent_of_the_top_throughput() -> None:
    points = {
        "fastest": windows([1000] * 5, [0.5] * 5),
        "calm": windows([960] * 5, [0.2] * 5),
        "calmer but slow": windows([940] * 5, [0.1] * 5),
        "never up": [],
    }
    assert judge.order(points) == ["calm", "fastest", "calmer but slow"]


def test_drift_that_hits_both_alike_leaves_the_ratio_alone() -> None:
    drifting = [100.0, 80.0, 60.0, 90.0, 70.0]
    theirs = windows([2 * one for one in drifting], [0.1] * 5)
    found = judge.ratio(windows(drifting, [0.1] * 5), theirs, "throughput")
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5)
    assert found.high == pytest.approx(0.5)
    assert found.rounds == 5


def test_windows_of_other_rounds_are_left_out_of_a_ratio() -> None:
    ours = windows([100] * 5, [1] * 5, "a") + windows([1] * 5, [1] * 5, "b")
    found = judge.ratio(ours, windows([100] * 5, [1] * 5, "a"), "throughput")
    assert (found.value, found.rounds) == (1.0, 5)


def test_an_interval_is_students_and_holds_what_scatters() -> None:
    middle, low, high = judge.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    # The standard error of these five is 0.7071, the quantile for four degrees of freedom 2.776.
    assert middle == 3
    assert (high - middle, middle - low) == pytest.approx((1.963, 1.963), abs=1e-3)


def test_a_rule_that_answered_nothing_is_behind() -> None:
    found = judge.ratio(windows([50] * 5, [1] * 5), windows([0] * 5, [0] * 5), "throughput")
    assert found.value == math.inf
    assert judge.verdict(found, found) == "plan"


def test_one_window_of_nothing_lets_the_medians_decide_not_infinity() -> None:
    good, gap = windows([100] * 5, [1] * 5), windows([90, 90, 0, 90, 90], [2, 2, 0, 2, 2])
    assert judge.ratio(good, gap, "throughput").value == pytest.approx(100 / 90)
    assert judge.ratio(gap, good, "throughput").value == pytest.approx(0.9)
    # A window without an answer has no quick p99: it counts as long as a client waits.
    assert judge.ratio(gap, good, "p99").value > 2
    assert judge.typical(windows([0] * 3, [0] * 3), "p99") == judge.NEVER


EVEN = Ratio(1.0, 0.98, 1.02, 5)


@pytest.mark.parametrize(
    ("throughput", "p99", "ahead"),
    [
        (EVEN, EVEN, ""),
        (Ratio(1.3, 1.2, 1.4, 5), Ratio(2.0, 1.8, 2.2, 5), "plan"),
        (Ratio(0.7, 0.6, 0.8, 5), Ratio(0.5, 0.4, 0.6, 5), "rule"),
        (EVEN, Ratio(0.8, 0.7, 0.9, 5), "plan"),
        (EVEN, Ratio(1.2, 1.1, 1.3, 5), "rule"),
        (EVEN, Ratio(1.2, 0.9, 1.6, 5), ""),
        # Half the throughput at a lower p99 is not ahead: few wait, because few are served.
        (Ratio(2.0, 1.9, 2.1, 5), Ratio(3.0, 2.9, 3.1, 5), "plan"),
        # Within 5 % of throughput the wait decides, where it differs beyond the interval.
        (Ratio(0.98, 0.97, 0.99, 5), Ratio(0.5, 0.4, 0.6, 5), "plan"),
        (Ratio(1.02, 1.01, 1.03, 5), Ratio(1.5, 1.4, 1.6, 5), "rule"),
        (Ratio(0.98, 0.97, 0.99, 5), EVEN, "rule"),
        # Less than 95 % of the throughput, be the interval ever so wide: p99 does not decide.
        (Ratio(0.88, 0.70, 1.10, 5), Ratio(0.8, 0.7, 0.9, 5), ""),
        (Ratio(1.10, 0.95, 1.30, 5), Ratio(1.1, 1.01, 1.2, 5), ""),
    ],
)
def test_who_is_ahead(throughput: Ratio, p99: Ratio, ahead: str) -> None:
    assert judge.verdict(throughput, p99) == ahead
