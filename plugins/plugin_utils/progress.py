# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""With -v: what the host's run does, while the module that follows it on the host has not answered yet."""

from __future__ import annotations

import copy
import json
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

#: Seconds between two looks. Each is one short command over the connection that is there.
AGAIN = 2.0
#: Events of one look; a run says a few a second at most.
EVENTS = 60


class Reading:
    """The events of a run as lines for a person, each once."""

    def __init__(self) -> None:
        self.told: set[str] = set()
        self._began = 0.0
        self._seen: set[str] = set()
        self._under_way = ""

    def begin(self, now: float) -> None:
        """From the host's time ``now`` on; what was before belongs to other runs."""
        self._began = now

    def lines(self, text: str) -> Iterator[str]:
        """The lines for events that are new in ``text``, the end of the host's events.jsonl."""
        under_way = ""
        for raw in text.splitlines():
            try:
                event = json.loads(raw)
                when, kind, step = float(event["t"]), event["event"], str(event.get("step", ""))
            except (ValueError, KeyError, TypeError):
                continue  # a line cut in half, or of a shell
            if when < self._began or raw in self._seen:
                continue
            self._seen.add(raw)
            under_way = step if kind == "start" else "" if kind in ("done", "failed", "end") else under_way
            if kind == "done":
                self.told.add(step)
                yield step_line(event)
            elif kind == "line":
                yield f"{'':>20}{event.get('detail', '')}"
        # What takes longer than one look is told when it has begun.
        if under_way and under_way != self._under_way:
            yield f"{'':>9}  {'...':<7}  {under_way}"
        self._under_way = under_way or self._under_way


def step_line(step: dict[str, Any]) -> str:
    """One step that is done, as -v shows it."""
    mark = "changed" if step.get("changed") else "ok"
    name = step.get("name") or step.get("step")
    return f"{step.get('seconds', 0):7.1f} s  {mark:<7}  {name}  {step.get('detail') or ''}".rstrip()


@contextmanager
def followed(action: ActionBase, events: str, say: Callable[[str], None]) -> Iterator[set[str]]:
    """Tells the run's events while the block runs; gives the names of the steps that were told.

    A look that fails is passed over: what the module answers tells the same once more.
    """
    reading, over = Reading(), threading.Event()
    looker = _another(action)
    thread = threading.Thread(target=_look, args=(looker, events, reading, over, say), daemon=True)
    thread.start()
    try:
        yield reading.told
    finally:
        over.set()
        thread.join(AGAIN * 5)


def _look(
    looker: ActionBase, events: str, reading: Reading, over: threading.Event, say: Callable[[str], None]
) -> None:
    tail = f"tail -n {EVENTS} {shlex.quote(events)} 2>/dev/null; true"
    try:
        reading.begin(float(looker._low_level_execute_command("date +%s.%N")["stdout"].split()[0]))
        while not over.wait(AGAIN):
            for line in reading.lines(looker._low_level_execute_command(tail)["stdout"]):
                say(line)
    except (AnsibleError, OSError, ValueError, IndexError):
        return


def _another(action: ActionBase) -> ActionBase:
    """The same action with a connection object of its own, which carries what a command under way sets."""
    other = copy.copy(action)
    other._connection = copy.copy(action._connection)
    if getattr(other._connection, "become", None) is not None:
        other._connection.become = copy.copy(action._connection.become)
    return other
