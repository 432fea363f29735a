"""The CPU while a run works beside an app that serves: the apps first, then everything else.

Nice values weigh inside one control group only. Where the cpu controller is on (a session of somebody who is
logged in is enough), all apps together have the weight of a deploy's own slice, of PID 1 at a daemon-reload
and of a session, however nice those are; see docs/decisions/0008-cpu-in-a-deploy.md for what that costs.
"""

from __future__ import annotations

import os

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


def favour() -> None:
    """The slice of all apps has ten times the weight of its neighbours, until even() says otherwise.

    Only while a run works beside what serves, and at run time only: a proxy or a database beside the apps has
    its equal share at all other times. A host whose control groups cannot be changed goes on without.
    """
    _weigh(str(WEIGHT))


def even(own: str) -> None:
    """Equal weights again, unless another run than that of the unit `own` still works."""
    listed = systemd.systemctl(
        "list-units", "--state=active", "--plain", "--no-legend", "farrier-deploy-*.service", check=False
    )
    if not {line.split()[0] for line in listed.splitlines()} - {own}:
        _weigh("")


def _weigh(value: str) -> None:
    systemd.systemctl("set-property", "--runtime", APPS_SLICE, f"CPUWeight={value}", check=False)
