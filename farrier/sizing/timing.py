"""Times and recycling: timeouts, keep-alive, max_requests."""

from __future__ import annotations

import math

from . import constants
from .database import worker_count_in_deploy
from .settings import Settings
from .strategy import Fit, Problem
from .units import format_bytes, format_cpus

Answer = tuple[int, str, str]
"""(value, why, bound_by)"""


def pressure(problem: Problem, one: Fit) -> str:
    """How short of memory the app is: ease, tight or low."""
    if problem.low_memory or not one.fits:
        return "low"
    short = one.workers < problem.wish.workers or (problem.share.deploys_here and one.strategy == "queue")
    return "tight" if short else "ease"


def boot_seconds(problem: Problem, workers: int) -> float:
    """Seconds until so many workers that boot at once have booted on these CPUs."""
    return problem.workload.boot_seconds * max(1.0, workers / problem.cpus)


def timeout(problem: Problem, one: Fit) -> Answer:
    """Seconds a worker may stay silent."""
    by_memory = {
        "ease": (constants.TIMEOUT_AT_EASE, "memory is at ease", "practice"),
        "tight": (constants.TIMEOUT_TIGHT, "memory is tight, and reclaim slows requests", "memory"),
        "low": (constants.TIMEOUT_LOW_MEMORY, "memory is short, and swapping slows requests", "memory"),
    }
    seconds, why, bound_by = by_memory[pressure(problem, one)]
    boot = boot_seconds(problem, one.workers)
    needed = math.ceil(constants.TIMEOUT_BOOTS * boot)
    if needed > seconds:
        why = (
            f"{one.workers} workers boot in {boot:.0f} s on {format_cpus(problem.cpus)} CPUs; a worker that "
            f"imports is silent, so {constants.TIMEOUT_BOOTS} times that"
        )
        return needed, why, "boot time"
    return seconds, f"{seconds} s: {why}", bound_by


def stop_timeout(problem: Problem, graceful: int) -> Answer:
    """Seconds between SIGTERM and SIGKILL by whatever runs the app."""
    fixed = constants.STOP_TIMEOUTS.get(problem.runtime)
    if fixed is not None:
        who = {"docker": "docker stop", "cloudrun": "Cloud Run", "kubernetes": "Kubernetes"}[problem.runtime]
        return fixed, f"{who} kills {fixed} s after SIGTERM", "stop timeout"
    margin = constants.SYSTEMD_STOP_MARGIN
    return (
        graceful + margin,
        f"graceful_timeout {graceful} s + {margin} s to spare, in our own unit",
        "practice",
    )


def graceful_timeout(problem: Problem, timeout_seconds: int, settings: Settings) -> Answer:
    """Seconds that running requests get to finish."""
    ease = min(timeout_seconds or constants.GRACEFUL_AT_MOST, constants.GRACEFUL_AT_MOST)
    stop = settings.value("stop_timeout", constants.STOP_TIMEOUTS.get(problem.runtime))
    if stop is not None:
        latest = max(1, int(str(stop)) - constants.STOP_MARGIN)
        if latest < ease:
            why = f"{stop} s until the kill ({problem.runtime}) less {constants.STOP_MARGIN} s to end cleanly"
            return latest, why, "stop timeout"
    return (
        ease,
        f"the smaller of timeout {timeout_seconds} s and {constants.GRACEFUL_AT_MOST} s, after which a client counts it failed",
        "practice",
    )


def keepalive(problem: Problem) -> Answer:
    """Seconds an idle kept-alive connection stays open."""
    default = (
        constants.PROXY_KEEPALIVE_CLOUD_RUN if problem.runtime == "cloudrun" else constants.PROXY_KEEPALIVE
    )
    idle = int(str(problem.settings.value("proxy_keepalive", default)))
    seconds = idle + constants.KEEPALIVE_MARGIN
    return (
        seconds,
        f"the proxy drops idle connections after {idle} s; {constants.KEEPALIVE_MARGIN} s longer, so that it always closes first",
        "proxy idle time",
    )


def max_requests(problem: Problem, one: Fit) -> Answer:
    """Requests after which a worker is replaced."""
    if problem.development:
        return 0, "development does not recycle", "environment"
    value, why, bound_by = {
        "ease": (constants.MAX_REQUESTS_AT_EASE, "memory is at ease", "practice"),
        "tight": (constants.MAX_REQUESTS_TIGHT, "memory is tight, so a leak is cut short sooner", "memory"),
        "low": (constants.MAX_REQUESTS_LOW_MEMORY, "memory is short, so a leak is cut short soon", "memory"),
    }[pressure(problem, one)]
    beside = (
        "its replacement starts beside it" if one.replacement else "its replacement starts after it ended"
    )
    return value, f"a worker is replaced after {value} requests: {why}; {beside}", bound_by


def max_requests_jitter(requests: int, workers: int) -> Answer:
    """Most extra requests by chance: Gunicorn only adds."""
    if not requests:
        return 0, "nothing is recycled", "practice"
    share = min(
        max(constants.JITTER_AT_LEAST, constants.JITTER_PER_WORKER * workers), constants.JITTER_AT_MOST
    )
    jitter = max(1, round(requests * share))
    why = f"Gunicorn adds up to this by chance: {workers} worker(s) end after {requests}-{requests + jitter} requests, not together"
    return jitter, why, "practice"


def queue_seconds(problem: Problem, one: Fit) -> Answer:
    """Seconds for which a deploy holds new requests in the socket."""
    if one.strategy != "queue":
        return 0, f"a deploy by {one.strategy} holds no request back", "strategy"
    boot = boot_seconds(problem, one.workers)
    seconds = math.ceil(constants.QUEUE_PAUSE + boot)
    why = f"{boot:.1f} s boot + {constants.QUEUE_PAUSE:.0f} s to stop and start; the socket holds new connections meanwhile"
    return seconds, why, "memory"


def strategy_reason(problem: Problem, one: Fit) -> tuple[str, str]:
    """(why, bound_by) of the deploy strategy."""
    target = format_bytes(problem.share.target)
    if not problem.share.deploys_here:
        return "the next release runs in a container of its own beside this one", "practice"
    peak = {
        name: format_bytes(one.footprint.deploy(name, one.workers, one.slots))
        for name in ("overlap", "rolling")
    }
    if one.strategy == "overlap":
        return f"old and new release together take {peak['overlap']} of {target}", "memory"
    by_database = problem.connections is not None and (
        one.footprint.deploy("overlap", one.workers, one.slots) <= problem.share.target
    )
    if by_database and problem.connections is not None:
        both = worker_count_in_deploy("overlap", one.workers)
        return (
            f"both releases at once would be {both} workers on {problem.connections.usable} connections",
            "database",
        )
    if one.strategy == "rolling":
        return (
            f"both releases at once take {peak['overlap']} of {target}; one worker more takes {peak['rolling']}",
            "memory",
        )
    return f"even one worker more beside the old release takes {peak['rolling']} of {target}", "memory"
