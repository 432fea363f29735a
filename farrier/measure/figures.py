"""Figures from samples. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

#: Equal parts of the requests by which growth is told from steps. Memory grows in steps (an arena, a huge
#: page), so the residuals of a line through many samples hang together and its error would be far too small.
BLOCKS = 10
#: Of these the first belong to the warm-up still: caches fill more slowly towards their end.
SETTLING = 3
#: A slope counts from this many standard errors on: Student's t for the degrees of freedom that seven blocks
#: leave, 95 % two-sided.
SIGNIFICANT = 2.45
#: Bytes by which a worker must have grown for a slope to count: threads that one after the other come to
#: touch their own pages rise steadily as well, by up to 200 KiB in all.
SEEN_FROM = 1 << 18
#: Bytes in 1,000 requests up to which a bound is as good as no growth: one arena of 256 KiB more among 1,000
#: requests bounds it by 1.3 MiB.
NEGLIGIBLE = 1.5 * (1 << 20)


def growth(samples: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Bytes in 1,000 requests and their standard error, from (requests so far, bytes) at equal distances.

    The slope is the mean of the increments between samples, its error theirs: one step in ten blocks is a
    slope of one error, a leak has the same increment in each. The first SETTLING blocks do not count. Raises
    ValueError for fewer than three others.
    """
    samples = samples[SETTLING:]
    if len(samples) < 4:
        raise ValueError(f"{len(samples)} samples after the first {SETTLING}: growth takes four at least")
    slopes = [
        (late[1] - early[1]) * 1000 / (late[0] - early[0]) for early, late in itertools.pairwise(samples)
    ]
    mean = sum(slopes) / len(slopes)
    variance = sum((one - mean) ** 2 for one in slopes) / (len(slopes) - 1)
    return mean, math.sqrt(variance / len(slopes))


def bound(slope: float, error: float) -> float:
    """What growth may be at most, in the unit of ``slope``: the upper end of its 95 % interval."""
    return slope + SIGNIFICANT * error


def counted(samples: Sequence[tuple[int, int]]) -> int:
    """Requests that growth() goes by."""
    return samples[-1][0] - samples[SETTLING][0]


def rises(slope: float, error: float) -> bool:
    """Whether the slope is more than its error."""
    return slope > SIGNIFICANT * error and slope > 0


def seen(slope: float, requests: int) -> bool:
    """Whether so many requests took more than the last pages of a warm-up do."""
    return slope * requests / 1000 >= SEEN_FROM


def grown(slope: float, error: float, requests: int) -> int | None:
    """``growth_per_1000``: 0 where it is bounded small, None where it is not and may be none as well."""
    if rises(slope, error) and seen(slope, requests):
        return round(slope)
    return 0 if bound(slope, error) <= NEGLIGIBLE else None


def shared_fraction(app_memory: int, own: int) -> float:
    """Such that the plan's ``worker = app_memory x (1 - shared_fraction)`` is what a forked worker has of its
    own after the warm-up (its USS): see footprint() in farrier/sizing/memory.py. From 0 to below 1."""
    return min(max(1 - own / app_memory, 0.0), 0.999)
