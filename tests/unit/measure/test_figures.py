"""What is made of samples: growth that is told from steps, the share that a fork keeps."""

from __future__ import annotations

import pytest

from farrier.measure.figures import BLOCKS, SETTLING, bound, counted, grown, growth, shared_fraction
from farrier.sizing.memory import footprint
from farrier.sizing.workload import Workload

MIB = 1 << 20


def samples(increments: list[int], block: int = 100) -> list[tuple[int, int]]:
    found = [(0, 50 * MIB)]
    for one in increments:
        found.append((found[-1][0] + block, found[-1][1] + one))
    return found


def test_a_leak_of_1_mb_in_100_requests_is_10_mib_in_1000() -> None:
    slope, error = growth(samples([MIB] * BLOCKS))
    assert (grown(slope, error, 700), error) == (10 * MIB, 0)


def test_a_leak_is_seen_through_pages_that_come_two_at_a_time() -> None:
    slope, error = growth(samples([0, 2 * MIB] * (BLOCKS // 2)))
    assert error > 0
    assert grown(slope, error, 700) == pytest.approx(10 * MIB, rel=0.3)


@pytest.mark.parametrize("at", range(BLOCKS))
def test_one_step_is_no_growth_wherever_it_comes(at: int) -> None:
    """A heap that takes one more arena is 2.6 MiB in 1,000 requests by its two ends."""
    increments = [0] * BLOCKS
    increments[at] = MIB // 4
    assert grown(*growth(samples(increments)), 700) == 0


def test_the_last_of_the_warm_up_is_no_growth() -> None:
    assert grown(*growth(samples([900_000, 500_000, 90_000] + [0] * (BLOCKS - SETTLING))), 700) == 0


def test_a_heap_that_shrinks_does_not_grow() -> None:
    assert grown(*growth(samples([-4096] * BLOCKS)), 700) == 0


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="takes four at least"):
        growth(samples([MIB] * (SETTLING + 2)))


@pytest.mark.parametrize(
    ("slope", "error", "expected"),
    [
        # A leak of 9.8 MiB that its error hides, and none that would look the same.
        (9.8 * MIB, 103 * MIB, None),
        (0, 10 * MIB, None),
        (-5 * MIB, 10 * MIB, None),
        (2 * MIB, MIB, None),
        # Bounded small: whatever it is, it is next to nothing.
        (0, 0, 0),
        (MIB / 8, MIB / 8, 0),
        (-MIB, MIB / 2, 0),
        # Beyond its error it is one.
        (3 * MIB, MIB, 3 * MIB),
        (MIB / 2, MIB / 8, MIB / 2),
        # Ten pages are the end of a warm-up.
        (40960, 12641, 0),
    ],
)
def test_growth_is_none_only_where_it_is_bounded_small(
    slope: float, error: float, expected: int | None
) -> None:
    assert grown(slope, error, 700) == expected


def test_a_small_leak_counts_when_it_has_gone_on_for_long_enough() -> None:
    found = samples([30 * 1024] * BLOCKS)
    assert (counted(found), grown(*growth(found), counted(found))) == (700, 0)
    found = samples([120 * 1024] * BLOCKS, block=400)
    assert (counted(found), grown(*growth(found), counted(found))) == (2800, 300 * 1024)


def test_a_leak_among_noise_of_few_requests_is_not_called_none() -> None:
    """Twenty requests that leave 10 KiB each, in a heap that comes and goes by 400 KiB."""
    found = samples([20480 + sign * 400_000 for sign in (1, -1)] * (BLOCKS // 2), block=2)
    slope, error = growth(found)
    assert bound(slope, error) > 10 * MIB
    assert grown(slope, error, counted(found)) is None


def test_the_plan_makes_a_worker_of_the_share_again() -> None:
    """148 MiB of which a forked worker has 12 of its own: that is what the plan must reckon with."""
    fraction = shared_fraction(148 * MIB, 12 * MIB)
    workload = Workload.profile(app_memory=148 * MIB, shared_fraction=fraction)
    assert footprint(workload, "gthread", preload=True).worker == pytest.approx(12 * MIB, rel=0.001)


def test_the_share_stays_within_what_the_plan_takes() -> None:
    assert shared_fraction(10 * MIB, 0) < 1
    assert shared_fraction(10 * MIB, 11 * MIB) == 0
