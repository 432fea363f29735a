"""Apps of one host share its memory by weight: one gives way to another that does not fit otherwise.

What a deploy is about to serve with lies as its claim in /etc/farrier/NAME while it works, so that the others
are planned beside it. An app gives way by a run of its own, under its own lock: the plan of its part, taken
over as any change of settings is, or put back where that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import FarrierError
from . import files
from . import state as states
from .layout import CLAIM, Layout
from .spec import Spec
from .state import State

if TYPE_CHECKING:
    from pathlib import Path

    from ..sizing.plan import Plan

# Seconds to wait for a run of an app that is to give way. Of two that wait for each other, the first by name
# waits longer: the other one ends before that, and lets go.
FIRST_WAIT, LATER_WAIT = 30.0, 3.0


def claim(layout: Layout, plan: Plan) -> files.File:
    """What the other apps are to reckon with until this run has ended."""
    return files.File(layout.etc / CLAIM, files.dump(plan.to_dict()), 0o640)


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
