"""Whom the kernel takes when memory ends: a worker, which the arbiter tells of and replaces in a moment.

With a preloaded app the arbiter is as large as any worker, and older than all. Its end would take the whole
site with it until systemd has started it again, and systemd alone would tell of it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

#: What a worker stands above its arbiter, in thousandths of all the memory that the limit allows (proc(5),
#: oom_score_adj): an arbiter is taken first only where it is larger by so much.
ABOVE = 300
MOST = 1000
OWN = Path("/proc/self/oom_score_adj")


def go_first(own: Path = OWN) -> None:
    """Called in a worker that was just forked. Raising one's own score needs no right."""
    with contextlib.suppress(OSError, ValueError):
        own.write_text(str(min(MOST, int(own.read_text()) + ABOVE)))
