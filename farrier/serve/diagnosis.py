"""What a worker can say of itself when it is asked to end at once: requests, stacks, memory."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from typing import Any

from farrier.health.memory import process_memory

#: Requests and characters of stacks that one line may hold: a log line of more is cut by most shippers.
MOST_REQUESTS, MOST_TEXT = 20, 24_000


def requests_in_hand(worker: Any) -> list[dict[str, Any]]:
    """``{"request", "seconds"}`` of each, the oldest first."""
    in_hand = getattr(worker, "in_hand", None)
    if not in_hand:
        return []
    now = time.monotonic()
    found = [
        {"request": str(entry[0]), "seconds": round(now - entry[1], 3)} for entry in list(in_hand.values())
    ]
    return sorted(found, key=lambda one: -float(one["seconds"]))[:MOST_REQUESTS]


def stacks() -> str:
    """Every thread's stack, innermost call last, as in a traceback."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        text = "".join(traceback.format_stack(frame))
        parts.append(f"Thread {names.get(ident, ident)}:\n{text}")
    return "\n".join(parts)[-MOST_TEXT:]


def memory() -> dict[str, int]:
    found = process_memory()
    return {
        name: value
        for name, value in (("rss_bytes", found.rss), ("pss_bytes", found.pss), ("uss_bytes", found.uss))
        if value is not None
    }


def diagnose(worker: Any) -> dict[str, Any]:
    """The fields of a ``worker_abort`` or ``worker_int`` event."""
    return {
        "requests_in_hand": requests_in_hand(worker),
        **memory(),
        "stacks": getattr(worker, "stacks", stacks)(),
    }
