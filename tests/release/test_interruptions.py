"""A run is killed at each of its steps: somebody serves throughout, and what is left is right at once.

The host-side unit gets SIGKILL in the moment in which a step begins. Systemd then starts the recovery; after
it one colour serves, with all of its workers, and the next run ends where this one would have.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.release.client import using
from tests.release.interrupting import PORT, WORKERS, alone, killed, steps, to

pytestmark = pytest.mark.systemd


@pytest.mark.parametrize("strategy", ["overlap", "rolling", "queue"])
def test_an_exchange_killed_at_each_step(site: Any, walk: dict[str, Any], strategy: str) -> None:
    walk["spec"]["settings"] = {"workers": WORKERS, "strategy": strategy}
    site.farrier("apply", to(site, walk, "odd"))
    # The run that nobody kills says which steps there are.
    every = steps(site.farrier("apply", to(site, walk, "even")))
    assert {"files", "start", "switch", "prune"} <= {name for name, _ in every}
    assert strategy != "rolling" or ("roll", 4) in every
    assert strategy != "queue" or ("gate", 1) in every
    word, other = "odd", "even"
    with using(site, PORT) as told:
        for step, nth in every:
            # So that the gate of a queue is there: it is left out for what has served with the same.
            walk["spec"]["env"] = {"WALK": f"{step} {nth}"}
            follower = killed(site, step, nth, "apply", to(site, walk, word))
            assert follower["failed"]
            assert "run it again and it goes on from there" in follower["msg"]
            serves = alone(site)
            assert serves == (word if step in ("stop", "guard", "prune") else other), step
            answer = site.farrier("apply", to(site, walk, word))
            # After the switch nothing is left to do, the spec on record included.
            assert answer["changed"] is (serves == other), (step, answer)
            assert alone(site) == word
            word, other = other, word
    assert told.failed == (), told.failed
    assert told.longest < 8
    assert set(told.said) == {"odd", "even"}
