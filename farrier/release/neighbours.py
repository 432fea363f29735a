"""Apps of one host share its memory by weight: one gives way to another that does not fit otherwise.

What a run is about to serve with lies as its claim in /etc/farrier/NAME while it works, so that the others
are planned beside it; it plans and claims under one lock of the host, so that two at once do not both take
what is free. An app gives way by a run of its own, under its own lock: the plan of its part, taken over as
any change of settings is, or put back where that fails.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import FarrierError
from . import files
from . import state as states
from .layout import CLAIM, PLANS_LOCK, VAR, Layout
from .spec import Spec
from .state import State

if TYPE_CHECKING:
    from pathlib import Path

    from ..sizing.plan import Plan

# Seconds to wait for a run of an app that is to give way. Of two that wait for each other, the first by name
# waits longer: the other one ends before that, and lets go.
FIRST_WAIT, LATER_WAIT = 30.0, 3.0
# Seconds to wait for others that plan: each holds the lock for the time of a plan.
PLANS_WAIT, PLANS_AGAIN = 60.0, 0.05


@contextmanager
def planning() -> Iterator[None]:
    """Holds the host's lock for a plan and its claim. Raises FarrierError where others have it for too long.

    The kernel lets go of it when its holder dies. Only root can open it.
    """
    until = time.monotonic() + PLANS_WAIT
    while (descriptor := _taken()) is None:
        if time.monotonic() >= until:
            raise FarrierError(
                f"another run has planned for {PLANS_WAIT:.0f} s and holds {VAR / PLANS_LOCK}", 1
            )
        time.sleep(PLANS_AGAIN)
    try:
        yield
    finally:
        os.close(descriptor)


def _taken() -> int | None:
    """The descriptor of the lock, held; None where another run has it."""
    path = VAR / PLANS_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The removal of the last app takes the file away: a lock on what no longer has the name is none.
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def claim(layout: Layout, plan: Plan) -> None:
    """Says what the other apps are to reckon with until this run has ended."""
    files.write(layout.etc / CLAIM, files.dump(plan.to_dict()), 0o640)


def let_go(layout: Layout) -> None:
    """Takes the claim back: the plan in force says what the app takes."""
    files.delete(layout.etc / CLAIM)


def replan(name: str, to: Layout, who: str, wheel: Path, gives_way: bool) -> None:
    """Another app's serving release gets the plan of its part, or what it is due without `to`.

    Raises FarrierError where its own run failed (it is as it was then) or another run has it.
    """
    from .apply import launch

    layout = states.layout_of(name)
    state, data = State.load(layout), files.read_json(layout.app_json)
    if data is None or state.release is None:
        raise FarrierError(f"{name} is being deployed for the first time; try again when that is over", 1)
    spec = Spec.from_mapping({**data, "who": who, "runtime": str(wheel)})
    order = {"target": state.release, "replan": True, "gives_way": gives_way}
    wait = FIRST_WAIT if to.name < name else LATER_WAIT
    result = launch(spec, layout, order, lambda event: None, wait)
    if result.failed:
        raise FarrierError(result.msg, 1)
