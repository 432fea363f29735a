"""Times and recycling: timeouts, keep-alive, max_requests."""

from __future__ import annotations

import math
from dataclasses import replace

from . import constants
from .limits import high_of, maximum_of
from .strategy import Fit, Problem, most_workers
from .units import counted, format_bytes

Answer = tuple[int, str, str]
"""(value, why, bound_by)"""

STOPPERS = {"docker": "docker stop", "cloudrun": "Cloud Run", "kubernetes": "Kubernetes"}

ENDS = "it ends a loop that is stuck, not a request that waits for ever"
ENDS_BY_CLASS = {
    "sync": "it ends a request that takes longer, with its worker",
    "gthread": "it ends a worker that is stuck, not a request that hangs in a thread",
}
"""What Gunicorn's timeout ends: it counts signs of life, and threads and loops give them in a request too."""


def pressure(problem: Problem, one: Fit) -> str:
    """How short of memory the app is: ease, tight or low."""
    if problem.low_memory or not one.fits:
        return "low"
    held_back = one.workers < most_workers(problem, one.footprint, by_memory=False)
    queues = problem.share.deploys_here and one.queues and "strategy" not in problem.settings
    no_room = queues and problem.database_allows("rolling", one.workers)
    return "tight" if no_room or (held_back and "workers" not in problem.settings) else "ease"


def boot_seconds(problem: Problem, workers: int) -> float:
    """Seconds until so many workers that boot at once have booted on these CPUs."""
    return problem.workload.boot_seconds * max(1.0, workers / problem.cpus)


def timeout(problem: Problem, one: Fit) -> Answer:
    """Seconds a worker may stay silent."""
    seconds, why, bound_by = {
        "ease": (constants.TIMEOUT_AT_EASE, "memory is at ease: Gunicorn's default", "practice"),
        "tight": (constants.TIMEOUT_TIGHT, "memory is tight, and reclaim slows workers down", "memory"),
        "low": (constants.TIMEOUT_LOW_MEMORY, "memory is short, and swapping slows workers down", "memory"),
    }[pressure(problem, one)]
    boot = boot_seconds(problem, one.workers)
    needed = math.ceil(constants.TIMEOUT_BOOTS * boot)
    ends = ENDS_BY_CLASS.get(problem.worker_class, ENDS)
    if needed <= seconds:
        return seconds, f"{why}; {ends}", bound_by
    workers, boots = counted(one.workers, "worker"), "boots" if one.workers == 1 else "boot"
    why = (
        f"{workers} {boots} in {boot:.0f} s on {counted(problem.cpus, 'CPU')}, silent meanwhile: "
        f"{constants.TIMEOUT_BOOTS} times that"
    )
    return needed, f"{why}; {ends}", "boot time"


def stop_timeout(problem: Problem, graceful: int) -> Answer:
    """Seconds between SIGTERM and SIGKILL by whatever runs the app."""
    fixed = constants.STOP_TIMEOUTS.get(problem.runtime)
    if fixed is not None:
        return fixed, f"{STOPPERS[problem.runtime]} kills {fixed} s after SIGTERM", "stop timeout"
    margin = constants.SYSTEMD_STOP_MARGIN
    return (
        graceful + margin,
        f"{graceful} s graceful_timeout + {margin} s to spare before the kill",
        "practice",
    )


def graceful_timeout(problem: Problem, timeout_seconds: int) -> Answer:
    """Seconds that running requests get to finish."""
    ease = min(timeout_seconds or constants.GRACEFUL_AT_MOST, constants.GRACEFUL_AT_MOST)
    stop = problem.settings.value("stop_timeout", constants.STOP_TIMEOUTS.get(problem.runtime))
    latest = ease if stop is None else max(1, int(str(stop)) - constants.STOP_MARGIN)
    if latest < ease:
        who = STOPPERS.get(problem.runtime, problem.runtime)
        return (
            latest,
            f"{who} kills after {stop} s, less {constants.STOP_MARGIN} s to end cleanly",
            "stop timeout",
        )
    if ease < constants.GRACEFUL_AT_MOST:
        why = f"no longer than a worker may be silent: {ease} s (timeout)"
        if problem.worker_class == "sync":
            why = f"a request may take {ease} s (timeout)"
        return ease, why, "timeout"
    return ease, f"after {ease} s a client counts a request as failed, waiting longer saves none", "practice"


def keepalive(problem: Problem) -> Answer:
    """Seconds an idle kept-alive connection stays open."""
    idle = proxy_idle(problem)
    seconds = idle + constants.KEEPALIVE_MARGIN
    why = f"{idle} s proxy_keepalive + {constants.KEEPALIVE_MARGIN}, so that the proxy always closes first"
    return seconds, why, "proxy idle time"


def proxy_idle(problem: Problem) -> int:
    """Seconds after which the proxy in front drops an idle connection."""
    cloud = problem.runtime == "cloudrun"
    default = constants.PROXY_KEEPALIVE_CLOUD_RUN if cloud else constants.PROXY_KEEPALIVE
    return int(str(problem.settings.value("proxy_keepalive", default)))


def max_requests(problem: Problem, one: Fit) -> Answer:
    """Requests after which a worker is replaced."""
    if problem.development:
        return 0, "development does not recycle", "environment"
    value, why, bound_by = {
        "ease": (constants.MAX_REQUESTS_AT_EASE, "memory is at ease", "practice"),
        "tight": (constants.MAX_REQUESTS_TIGHT, "memory is tight, so leaks are cut short sooner", "memory"),
        "low": (constants.MAX_REQUESTS_LOW_MEMORY, "memory is short, so leaks are cut short soon", "memory"),
    }[pressure(problem, one)]
    if problem.workload.growth_per_1000 is not None:
        value, why, bound_by = _by_growth(problem, one, value * constants.NO_GROWTH_FACTOR)
    beside = (
        "its replacement serves before it ends"
        if one.beside.replacement
        else "it ends before its replacement starts"
    )
    return value, f"{why}; {beside}", bound_by


def room_to_grow(problem: Problem, one: Fit) -> int:
    """Bytes by which all workers may grow: in a deploy up to all there is, else to memory_high."""
    high = problem.share.available
    if not one.fits:
        return max(0, high + one.footprint.reclaimable - one.steady)
    if problem.share.deploys_here:
        maximum = maximum_of(problem, one)
        chosen = problem.settings.value("memory_high")
        high = high_of(maximum, one) if chosen is None else min(maximum, int(str(chosen)))
    return max(0, min(high - one.steady, problem.share.available - one.deploy))


def _by_growth(problem: Problem, one: Fit, most: int) -> Answer:
    """Before what a worker was seen to grow fills the room there is; ``most`` where it does not grow."""
    growth = problem.workload.growth_per_1000 or 0
    if not growth:
        why = f"measured not to grow, so {constants.NO_GROWTH_FACTOR} times the usual number"
        return most, why, "practice"
    room, workers = room_to_grow(problem, one), one.workers
    lives = 1 + jitter_share(workers)
    exact = room * constants.GROWTH_SHARE / workers / lives / growth * 1000
    value = int(min(max(exact, constants.MAX_REQUESTS_LEAST), most))
    each = counted(workers, "worker")
    why = (
        f"measured to grow {format_bytes(growth)} in 1,000 requests: {each} may fill "
        f"{constants.GROWTH_SHARE:.0%} of the {format_bytes(room)} that are free"
    )
    if exact > most:
        return most, f"{why}, which takes longer than this", "practice"
    if exact < constants.MAX_REQUESTS_LEAST:
        return value, f"{why}, which takes less than {value}, the fewest that make sense", "practice"
    return value, why, "memory"


def grown(problem: Problem, one: Fit, requests: int, jitter: int) -> int:
    """Bytes by which all workers have grown when each is about to be replaced."""
    return one.workers * math.ceil((problem.workload.growth_per_1000 or 0) * (requests + jitter) / 1000)


def recycling(problem: Problem, one: Fit) -> tuple[str, str, str]:
    """Which comes first when a worker has had its max_requests: its replacement or its end."""
    private = format_bytes(one.footprint.worker)
    if one.beside.replacement:
        why = f"{private} are kept for another worker, which serves before the old one ends"
        return "replace-first", why, "memory"
    meanwhile = "meanwhile the socket holds what comes in"
    if one.workers > 1:
        takes = "takes" if one.workers == 2 else "take"
        meanwhile = f"meanwhile {counted(one.workers - 1, 'other worker')} {takes} what comes in"
    if not problem.replaceable(one):
        count = counted(one.workers + 1, "worker")
        return "retire-first", f"no connections for {count} at once; {meanwhile}", "database"
    need = format_bytes(one.footprint.steady(one.workers, one.slots, True))
    target = format_bytes(problem.share.target)
    return "retire-first", f"another worker beside it would make {need} of {target}; {meanwhile}", "memory"


def gate_beside(problem: Problem, one: Fit) -> tuple[bool, str, str]:
    """Whether a new release can be tried, with one worker, while the old one serves."""
    if one.strategy == "reload":
        return False, "no new release is started", "strategy"
    if not one.queues:
        return True, f"{one.strategy} starts the new release beside the old one anyway", "strategy"
    trial = f"one worker of a new release with two requests ({format_bytes(one.footprint.trial(one.slots))})"
    if one.beside.gate:
        return True, f"{trial} fits beside the old one and is tried before that stops", "memory"
    if not problem.database_allows("queue", one.workers, beside=replace(one.beside, gate=True)):
        return False, f"no connections for {trial} beside the old one", "database"
    need, target = (
        format_bytes(one.footprint.gate(one.workers, one.slots)),
        format_bytes(problem.share.target),
    )
    return False, f"{trial} beside the old one would make {need} of {target}", "memory"


def max_requests_jitter(requests: int, workers: int) -> Answer:
    """Most extra requests by chance: Gunicorn only adds."""
    if not requests:
        return 0, "nothing is recycled", "practice"
    jitter = max(1, round(requests * jitter_share(workers)))
    why = f"Gunicorn only adds it: workers end after {requests} to {requests + jitter} requests, not together"
    return jitter, why, "practice"


def jitter_share(workers: int) -> float:
    """Jitter as a part of max_requests."""
    by_workers = max(constants.JITTER_AT_LEAST, constants.JITTER_PER_WORKER * workers)
    return min(by_workers, constants.JITTER_AT_MOST)


def queue_seconds(problem: Problem, one: Fit) -> Answer:
    """Seconds for which a deploy holds new requests in the socket."""
    if one.strategy != "queue":
        return 0, f"a deploy by {one.strategy} holds no request back", "strategy"
    boot = boot_seconds(problem, 1 if one.preload else one.workers)
    pause = constants.QUEUE_DRAIN + constants.QUEUE_START
    why = (
        f"{constants.QUEUE_DRAIN:g} s for requests in hand when the old workers accept no more, "
        f"{constants.QUEUE_START:g} s to start, {boot:.1f} s boot; a longer request comes on top"
    )
    return math.ceil(pause + boot), why, "boot time"
