# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host of a play: who migrates, who is left alone when one fails, and who is asked again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.farrier.web.plugins.plugin_utils.progress import followed, step_line

display = Display()

#: Seconds for which the hosts of a batch give way to its first, where migrations are to run.
GIVING_WAY = 1.0
#: Seconds until a host whose connection was lost is asked again, each time.
ASK_AGAIN = (1.0, 5.0, 15.0)
#: Hosts that a line names; more are counted.
NAMED = 3


class FirstFailed(Exception):
    """The host that runs the migrations for all did not get through: one line."""


@dataclass
class Turn:
    """Whether this host runs the migrations; whoever holds it says with ``good`` how that went."""

    here: bool
    good: bool = False


def patience_of(host: str, task_vars: dict[str, Any]) -> float:
    """How long a host gives way: the first of its batch does not."""
    return 0 if [host] == list(task_vars.get("ansible_play_batch", [host]))[:1] else GIVING_WAY


def turn_place(folder: str, play: str, name: str) -> Path:
    """The file by which the workers of one run agree; ``folder`` is the run's own and goes with it."""
    digest = hashlib.sha256(f"{play}\0{name}".encode()).hexdigest()
    return Path(folder, f"farrier-migrates-{digest[:16]}")


@contextmanager
def migrations_turn(
    place: Path, host: str, say: Callable[[str], None], patience: float = 0
) -> Iterator[Turn]:
    """The first host that comes migrates; the others wait for it, and fail where it failed.

    Hosts of one batch come at the same moment: all but its first have ``patience``, in seconds, for that one.

    The kernel's lock goes with its holder, so that a worker that dies keeps nobody waiting.
    Raises FirstFailed.
    """
    until = time.monotonic() + patience
    while not place.exists() and time.monotonic() < until:
        time.sleep(0.02)
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(descriptor, host, say)
        record = _read(descriptor)
        first = record.get("host", host)
        if first != host:
            # Others wait for this one no longer than it takes to look.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            if not record.get("good"):
                raise FirstFailed(
                    f"migrate_on: {first} runs the migrations for all and did not get through; nothing was "
                    "changed on this host: mend that one first, or say each"
                )
            yield Turn(here=False)
            return
        turn = Turn(here=True)
        _write(descriptor, {"host": host, "good": False})
        yield turn
        _write(descriptor, {"host": host, "good": turn.good})
    finally:
        os.close(descriptor)


def _lock(descriptor: int, host: str, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{host} waits for {_read(descriptor).get('host', 'another host')}, which runs the migrations")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _read(descriptor: int) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return record


def _write(descriptor: int, record: dict[str, Any]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)


def left_alone(task: Any, task_vars: dict[str, Any]) -> list[str]:
    """The hosts of later batches, which keep what they serve when a host of this one fails."""
    if (
        not task.any_errors_fatal
        or (play := task.get_play()) is None
        or play.order not in (None, "inventory")
    ):
        return []
    everyone = list(task_vars.get("ansible_play_hosts_all", []))
    batch = [host for host in task_vars.get("ansible_play_batch", []) if host in everyone]
    return everyone[max(map(everyone.index, batch)) + 1 :] if batch else []


def stopped_here(hosts: list[str]) -> str:
    """What is said of them at the end of a failure's line."""
    if not hosts:
        return ""
    more = f" and {len(hosts) - NAMED} more" if len(hosts) > NAMED else ""
    verb = "are" if len(hosts) > 1 else "is"
    return f"; the play stops here, {', '.join(hosts[:NAMED])}{more} {verb} left as before"


class HostAction(ActionBase):
    """An action on one host of a play, which works on when the connection is lost."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do it; a failure is told with what becomes of the other hosts."""
        super().run(tmp, task_vars)
        told = stopped_here(left_alone(self._task, task_vars or {}))
        try:
            result = self.act(task_vars or {})
        except AnsibleActionFail as refused:
            raise AnsibleActionFail(f"{refused.message}{told}") from None
        except AnsibleConnectionFailure as lost:
            if not self._task.any_errors_fatal:
                raise
            # As unreachable it would not stop the play: Ansible counts such a host twice, finds more failures
            # than the batch has hosts, and goes on with the next one (ansible/ansible#82834, core 2.19).
            raise AnsibleActionFail(f"{lost.message}{told}") from None
        if told and result.get("failed") and not self._task.ignore_errors:
            # Ansible would show the module's own line, as it came from the host.
            result.pop("exception", None)
            result["msg"] = f"{result.get('msg', 'it failed and said nothing')}{told}"
        return result

    def act(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """What the action does. May raise AnsibleActionFail with one line for a person."""
        raise NotImplementedError

    def ask(
        self,
        task_vars: dict[str, Any],
        root: str,
        again: bool = True,
        hidden: Iterable[str] = (),
        **module: Any,
    ) -> dict[str, Any]:
        """Run the module, which waits for the host's run; with -v the run's steps are shown as they come.

        ``root``: the folder of the app's releases on the host. ``again``: whether asking once more, after the
        connection was lost, only finds the run that is under way, or that it is over. ``hidden``: what must
        not be shown; the module hides it in its answer by itself.
        """
        host = str(task_vars.get("inventory_hostname", ""))
        if display.verbosity < 1 or self._task.check_mode:
            return self._answer(host, again, {"task_vars": task_vars, **module})
        secrets = sorted(hidden, key=len, reverse=True)

        def say(line: str) -> None:
            for secret in secrets:
                line = line.replace(secret, "********")
            display.v(line, host=host)

        with followed(self, f"{root}/events.jsonl", say) as told:
            result = self._answer(host, again, {"task_vars": task_vars, **module})
        for step in result.get("steps") or []:
            if step["name"] not in told and (step.get("changed") or step.get("detail")):
                say(step_line(step))
        return result

    def _answer(self, host: str, again: bool, module: dict[str, Any]) -> dict[str, Any]:
        """The module's answer; where none comes it is asked anew, for the host has gone on by itself."""
        lost = False
        for pause in (*(ASK_AGAIN if again else ()), 0.0):
            try:
                result: dict[str, Any] = self._execute_module(**module)
                why = _no_answer(result)
            except AnsibleConnectionFailure as failure:
                why = str(failure.message)
            if not why:
                # What was begun before the connection was lost may have changed the host.
                return {**result, "changed": True} if lost and not result.get("failed") else result
            lost = True
            if pause:
                display.warning(f"{host}: {why}; what was begun there goes on, asking again in {pause:g} s")
                time.sleep(pause)
                self._connection.reset()
        raise AnsibleConnectionFailure(
            f"{why}; what was begun on the host goes on there, and the next run says what came of it"
        )


def _no_answer(result: dict[str, Any]) -> str:
    """Why there is no answer of the module in ``result``; empty if there is one, or if it broke by itself."""
    if not result.get("failed") or "module_stdout" not in result or str(result["module_stdout"]).strip():
        return ""
    # ssh or the module was ended by a signal; a module that raises ends with 1.
    if 0 <= int(result.get("rc") or 0) < 128:
        return ""
    said = str(result.get("module_stderr", "")).strip().splitlines()
    return f"the connection ended without an answer{': ' + said[-1] if said else ''}"
