"""The CPU while a run works beside an app that serves: the apps first, then everything else.

Nice values weigh inside one control group only. Where the cpu controller is on (a session of somebody who is
logged in is enough), all apps together have the weight of a deploy's own slice, of PID 1 at a daemon-reload
and of a session, however nice those are; see docs/decisions/0008-cpu-in-a-deploy.md for what that costs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from . import systemd
from .layout import APPS_SLICE

# Ten times the weight that every other slice has (systemd.resource-control(5): 100).
WEIGHT = 1000
# Added to the nice value of whoever only asks and follows.
STEP = 10


def step_back() -> None:
    """This process gives way; without effect where it is nicer than that already."""
    current = os.getpriority(os.PRIO_PROCESS, 0)
    if current < STEP:
        os.setpriority(os.PRIO_PROCESS, 0, STEP)


@contextmanager
def apps_first(serving: bool) -> Iterator[None]:
    """The slice of all apps has ten times the weight of its neighbours until the end of the block.

    Only while something serves, and at run time only: a proxy or a database beside the apps has its equal
    share at all other times. A host whose control groups cannot be changed goes on without.
    """
    if not serving:
        yield
        return
    _weigh(str(WEIGHT))
    try:
        yield
    finally:
        if not _others_deploy():
            _weigh("")


def _weigh(value: str) -> None:
    systemd.systemctl("set-property", "--runtime", APPS_SLICE, f"CPUWeight={value}", check=False)


def _others_deploy() -> bool:
    listed = systemd.systemctl(
        "list-units", "--state=active", "--plain", "--no-legend", "farrier-deploy-*.service", check=False
    )
    return len(listed.splitlines()) > 1
