"""The guard: looks at a release for a while after the switch, and says why it has to go back.

What it looks at is what the release itself cannot hide: its responses as its arbiter counts them, the
kernel's kills in its cgroup, and how often systemd or the arbiter had to start something again.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import files, systemd
from .events import Journal
from .layout import Layout
from .spec import Guard, Spec

# Seconds between two looks; the arbiter tells its figures once a second.
LOOK = 0.5
# Seconds for a first release at most: nothing can be done about it but to say so, and somebody waits.
FIRST = 5.0
# Seconds between two lines of progress.
TELL = 5.0
# Seconds without a ready worker, or without a response to what is in hand, that are no mere exchange of a
# worker and no mere pause. The guard ends late rather than in one.
DOWN = 10.0
# Seconds without a response to what is in hand from which it may become a standstill.
QUIET = 2.0
# A tail is bad where it is this many seconds as well: 3 ms after 1 ms is no reason to go back.
SLOW_LEAST = 0.25
# Seconds after the switch whose latency says nothing: a worker's first requests do what is done but once.
COLD = 5.0
# Standard deviations by which a count must be above what is to be expected: the rest may be chance.
CHANCE = 4.0
# Times the share of errors, and the rate of kills, of the release before: less is the same trouble.
WORSE = 2.0
# How a worker ends that nobody asked to.
BROKEN = ("crashed", "timed out", "failed to boot")


@dataclass(frozen=True)
class Sample:
    """One look at one colour: counts of its whole life so far."""

    requests: int = 0
    """Responses."""
    errors: int = 0
    """Of these, those of status 500 and above."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of the latency histogram, seconds."""
    counts: tuple[int, ...] = ()
    """Responses in each of its buckets; one more than bounds."""
    kills: int = 0
    """Processes of it that the kernel killed for memory."""
    restarts: int = 0
    """Times that systemd started the service again."""
    endings: Mapping[str, int] = field(default_factory=dict)
    """How its workers ended, by the arbiter's words."""
    age: float = 0.0
    """Seconds since the arbiter started."""
    unit: str = "active"
    """systemd's ActiveState."""
    ready: bool = True
    """Whether a worker is ready."""
    down: float = 0.0
    """Seconds for which it has not been active and ready."""
    life: float = 0.0
    """When its arbiter started, which tells one from its successor."""
    in_hand: int = 0
    """Requests that it has taken up and not answered."""
    silent: float = 0.0
    """Seconds for which it has had requests in hand and answered none."""
    rate: float = 0.0
    """Responses a second over the last half minute, as its arbiter tells it; 0 where it does not."""

    def p95(self) -> float | None:
        """The 95th percentile of the latency in seconds; None without responses."""
        return quantile(self.bounds, self.counts, 0.95)

    @property
    def share(self) -> float:
        """The share of its responses that were errors."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def broken(self) -> int:
        """Workers that ended as none should."""
        return sum(self.endings.get(name, 0) for name in BROKEN)


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """A quantile of a histogram, interpolated inside its bucket; the last bucket has no end: its start.

    None where nothing was counted. ``counts`` has one entry more than ``bounds``.
    """
    wanted, seen = share * sum(counts), 0
    if not wanted:
        return None
    for index, count in enumerate(counts):
        if count and seen + count >= wanted:
            low = bounds[index - 1] if index else 0.0
            high = bounds[index] if index < len(bounds) else low
            return low + (high - low) * (wanted - seen) / count
        seen += count
    return bounds[-1] if bounds else None


def judge(before: Sample | None, now: Sample, limits: Guard) -> str | None:
    """Why `now` is too bad to stay, in one line with its numbers; None while it is not.

    `before` is the release that it took over from, as it was then; None where there was none.
    """
    before = before or Sample()
    for reason in (
        _down(now),
        _killed(before, now, limits),
        _restarted(before, now, limits),
        _stuck(before, now, limits),
        _erring(before, now, limits),
        _slow(before, now, limits),
    ):
        if reason:
            return reason
    return None


def _down(now: Sample) -> str | None:
    if now.unit == "failed":
        return "the service failed and systemd does not start it again"
    if now.down >= DOWN:
        state = (
            "no worker was ready" if now.unit in ("active", "reloading") else f"the service was {now.unit}"
        )
        return f"{state} for {now.down:.0f} s"
    return None


def _killed(before: Sample, now: Sample, limits: Guard) -> str | None:
    if not now.kills or now.kills <= _usual(before.kills, before, limits):
        return None
    had = _had(before.kills, before)
    return f"the kernel killed {_count(now.kills, 'process', 'processes')} of it for memory ({had})"


def _restarted(before: Sample, now: Sample, limits: Guard) -> str | None:
    if now.restarts >= limits.restarts:
        return f"the service died and was started again {_times(now.restarts)}"
    if now.broken >= limits.restarts and now.broken > _usual(before.broken, before, limits):
        how = ", ".join(f"{now.endings[name]} {name}" for name in BROKEN if now.endings.get(name))
        return f"workers ended badly: {how} ({_had(before.broken, before)})"
    return None


def _stuck(before: Sample, now: Sample, limits: Guard) -> str | None:
    # An open stream or two and nobody else there is no standstill: others must have been answered before.
    if now.silent < DOWN or now.silent * before.rate < limits.requests:
        return None
    return (
        f"nothing was answered for {now.silent:.0f} s, with {_count(now.in_hand, 'request', 'requests')} "
        f"in hand (before: {before.rate:.1f} responses a second)"
    )


def _usual(count: int, before: Sample, limits: Guard) -> float:
    """What the release before would have had in the whole time, and as much again."""
    return WORSE * count * limits.seconds / before.age if before.age else 0.0


def _had(count: int, before: Sample) -> str:
    return f"before: {count or 'none'} in {before.age:.0f} s" if before.age else "before: none"


def _erring(before: Sample, now: Sample, limits: Guard) -> str | None:
    if now.requests < limits.requests:
        return None
    # From a handful of responses nothing follows about the one before.
    known = before.requests >= limits.requests
    if now.share <= limits.errors or (known and now.share <= WORSE * before.share):
        return None
    if known and not _beyond_chance(now.errors, now.requests, before.errors, before.requests):
        return None
    had = f"before: {_percent(before.share)}" if known else "before: too few to know"
    return f"{_percent(now.share)} of {now.requests} responses were errors ({had})"


def _slow(before: Sample, now: Sample, limits: Guard) -> str | None:
    if sum(now.counts) < limits.requests or sum(before.counts) < limits.requests:
        return None
    tail, had = now.p95() or 0.0, before.p95() or 0.0
    least = max(SLOW_LEAST, limits.latency * had)
    if tail <= least:
        return None
    # That one in thirty takes long may have been so before, and among twenty there are two by chance.
    slow, usual = (_above(one, least) for one in (now, before))
    if not _beyond_chance(slow, sum(now.counts), usual, sum(before.counts)):
        return None
    return (
        f"95 % of {sum(now.counts)} responses took up to {_seconds(tail)} (before: {_seconds(had)}; "
        f"allowed: {limits.latency:g} times that)"
    )


def _above(one: Sample, least: float) -> float:
    """Responses that took longer than `least` seconds, interpolated inside its bucket."""
    found = 0.0
    for low, high, count in zip((0.0, *one.bounds), (*one.bounds, math.inf), one.counts, strict=False):
        within = 1.0 if least <= low else (high - least) / (high - low) if high < math.inf else 0.0
        found += count * max(0.0, within)
    return found


def _beyond_chance(count: float, of: int, had: float, had_of: int) -> bool:
    """Whether `count` of `of` is more than `had` of `had_of` lets one expect, chance included.

    Each look is another chance to be wrong: by the share alone one good release in four went back.
    """
    expected = of * (had + 1) / (had_of + 1)
    return count > 1 + expected + CHANCE * math.sqrt(expected)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or not share else f"{100 * share:.1f} %"


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


# -- looking ------------------------------------------------------------------------------------------------


def sample(layout: Layout, colour: str) -> Sample:
    """What can be seen of `colour` at this moment. Counts that cannot be read are 0."""
    unit = systemd.show(
        layout.service(colour), "ActiveState", "NRestarts", "ControlGroup", "MainPID", "Result"
    )
    told = files.read_json(layout.run_dir / f"{colour}.json") or {}
    if str(told.get("pid")) != unit["MainPID"]:
        # Left behind by an arbiter that was killed.
        told = {}
    traffic = _mapping(told.get("traffic"))
    latency = _mapping(traffic.get("latency"))
    endings = {str(name): int(count) for name, count in _mapping(told.get("endings")).items()}
    workers = told.get("workers") or []
    started = float(told.get("started") or 0.0)
    state = unit["ActiveState"]
    return Sample(
        requests=int(traffic.get("requests", 0)),
        errors=int(traffic.get("errors", 0)),
        bounds=tuple(float(bound) for bound in latency.get("bounds", ())),
        counts=tuple(int(count) for count in latency.get("counts", ())),
        kills=max(memory_kills(unit["ControlGroup"]), endings.get("killed for memory", 0)),
        restarts=int(unit["NRestarts"] or 0),
        endings=endings,
        age=max(0.0, time.time() - started) if started else 0.0,
        # A stop by hand is inactive with success: nothing that the release did.
        unit="stopped" if (state, unit["Result"]) == ("inactive", "success") else state,
        ready=any(isinstance(one, dict) and one.get("ready") for one in workers),
        life=started,
        in_hand=int(traffic.get("in_hand", 0)),
        rate=float(traffic.get("rate") or 0.0),
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def memory_kills(group: str, root: Path = Path("/sys/fs/cgroup")) -> int:
    """The kernel's kills for memory in a control group: of memory.events (v2) or memory.oom_control (v1)."""
    if not group:
        return 0
    inside = group.lstrip("/")
    for path in (
        root / inside / "memory.events",
        root / "memory" / inside / "memory.oom_control",
        root / "unified" / inside / "memory.events",
    ):
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
    return 0


class Lives:
    """Adds up what the arbiters of one colour told, one after the other, since the watch began.

    An arbiter that died takes its counts along, and its control group's; its successor begins at nothing.
    """

    def __init__(self) -> None:
        self._gone = Sample()
        self._last: Sample | None = None
        self._down_since: float | None = None
        self._silent_since = 0.0
        self._answered = -1

    def add(self, seen: Sample, clock: float) -> Sample:
        """All of them together, as of `seen`; `clock` counts the seconds that it is down."""
        last = self._last
        if seen.life and last is not None and last.life and seen.life != last.life:
            self._gone = _sum(self._gone, last)
        if seen.life or last is None:
            self._last = seen
        up = seen.unit in ("active", "reloading") and seen.ready
        if up or self._down_since is None:
            self._down_since = clock
        whole = _sum(self._gone, self._last or seen)
        if not seen.in_hand or whole.requests != self._answered:
            self._silent_since, self._answered = clock, whole.requests
        return dataclasses.replace(
            whole,
            silent=clock - self._silent_since,
            restarts=max(whole.restarts, seen.restarts),
            unit=seen.unit,
            ready=seen.ready,
            down=0.0 if up else clock - self._down_since,
        )


def _sum(one: Sample, two: Sample) -> Sample:
    same = one.bounds == two.bounds
    return dataclasses.replace(
        two,
        requests=one.requests + two.requests,
        errors=one.errors + two.errors,
        counts=tuple(map(sum, zip(one.counts, two.counts, strict=False))) if same else two.counts,
        kills=one.kills + two.kills,
        restarts=max(one.restarts, two.restarts),
        endings={
            name: one.endings.get(name, 0) + two.endings.get(name, 0) for name in {*one.endings, *two.endings}
        },
        age=one.age + two.age,
    )


def watch(
    spec: Spec,
    layout: Layout,
    colour: str,
    before: Sample | None,
    journal: Journal,
    since: float | None = None,
) -> str | None:
    """Watches `colour` for ``guard.seconds``; why it has to go back, or None. Blocks.

    `since`: when it was switched to, by the monotonic clock; meanwhile the one before has drained.

    It ends early with the first reason, late while the colour is down, and at once when a person stops it.
    """
    limits = spec.guard
    if not limits.seconds:
        return None
    if before is None:
        limits = dataclasses.replace(limits, seconds=min(limits.seconds, FIRST))
    began = told = time.monotonic()
    lives, cold = Lives(), Sample()
    while True:
        now = lives.add(sample(layout, colour), time.monotonic())
        elapsed = time.monotonic() - began
        if elapsed < min(COLD, limits.seconds / 3):
            cold = now
        now = warm(now, cold)
        if now.unit == "stopped":
            journal.say(f"{layout.service(colour)} was stopped by hand: no longer watched")
            return None
        if reason := judge(before, now, limits):
            return f"{reason}, {time.monotonic() - (since or began):.0f} s after the switch"
        # What may become a standstill is looked at until it is one or is none.
        if elapsed >= limits.seconds and not now.down and not QUIET <= now.silent < DOWN:
            journal.say(f"watched for {elapsed:.0f} s: {summary(now)}")
            return None
        if time.monotonic() - told >= TELL:
            told = time.monotonic()
            journal.say(f"{elapsed:.0f} of {limits.seconds:g} s: {summary(now)}")
        time.sleep(LOOK)


def warm(now: Sample, cold: Sample) -> Sample:
    """`now` without the latencies of `cold`, an earlier look at the same lives."""
    if len(now.counts) != len(cold.counts):
        return now
    counts = tuple(max(0, one - two) for one, two in zip(now.counts, cold.counts, strict=True))
    return dataclasses.replace(now, counts=counts)


def summary(now: Sample) -> str:
    """A sample in one line."""
    tail = now.p95()
    parts = [
        f"{now.requests} responses",
        f"{_percent(now.share)} errors" if now.requests else "",
        f"95 % within {_seconds(tail)}" if tail is not None else "",
        f"{_count(now.kills, 'memory kill', 'memory kills')}" if now.kills else "",
        f"{_count(now.restarts, 'restart', 'restarts')}" if now.restarts else "",
        f"{_count(now.broken, 'broken worker', 'broken workers')}" if now.broken else "",
    ]
    return ", ".join(part for part in parts if part)
