"""max_requests: the workers that are due are exchanged one at a time, while the main loop goes on."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from farrier.serve import config, events
from farrier.serve.endings import SpawnFailed, pause, why_ended
from farrier.serve.state import another_runs

#: Seconds for which recycling waits while two colours are up.
DEPLOY_LIMIT = 600.0


@dataclass
class Exchange:
    """A worker that is due, and its replacement; none where it is retired first."""

    old: Any
    newcomer: Any = None
    deadline: float = 0.0


class Recycling:
    """The arbiter calls step() on every turn of its main loop; nothing here waits but stop().

    With memory reserved for it the replacement comes first, and the old worker goes when it is ready; else
    the old one goes first, as it does where a replacement was killed for memory all the same. The next is
    looked for when the last has ended.
    """

    def __init__(self, arbiter: Any) -> None:
        self.arbiter = arbiter
        self.exchange: Exchange | None = None
        self.failures = 0
        self.not_before = 0.0
        self.deploying_since = 0.0

    @property
    def waits_for_memory(self) -> bool:
        """Whether a worker drains whose memory its successor needs."""
        one = self.exchange
        return one is not None and one.newcomer is None and one.old.pid in self.arbiter.WORKERS

    def step(self) -> None:
        arbiter, one = self.arbiter, self.exchange
        if arbiter.phase != "ready":
            return
        if one is None:
            self._begin()
        elif one.newcomer is None or not one.newcomer.extra:
            if one.old.pid not in arbiter.WORKERS:
                self.exchange = None
        elif one.newcomer.pid not in arbiter.WORKERS:
            self._lost(one)
        elif one.old.retired or one.old.pid not in arbiter.WORKERS:
            self._without_the_old(one)
        elif arbiter.is_ready(one.newcomer):
            one.newcomer.extra = False
            self.failures = 0
            one.old.recycled = True
            arbiter.retire(one.old)
        elif time.monotonic() > one.deadline:
            arbiter.retire(one.newcomer)
            self._failed(one.newcomer.slot.note or "it was not ready in time")

    def _begin(self) -> None:
        arbiter = self.arbiter
        due = [worker for worker in arbiter.serving() if worker.slot.due]
        if not due:
            self.deploying_since = 0.0
        if not due or time.monotonic() < self.not_before:
            return
        if len(arbiter.ready_workers()) < arbiter.num_workers or self._deploying():
            # Where workers are missing those that serve are needed.
            return
        old = due[0]
        if in_force() == "retire-first":
            self._go_first(old)
            return
        try:
            newcomer = arbiter.WORKERS[arbiter.spawn_worker(extra=True)]
        except SpawnFailed as error:
            self._failed(str(error))
            return
        self.exchange = Exchange(old, newcomer, time.monotonic() + arbiter.boot_limit())

    def _go_first(self, old: Any) -> None:
        self.exchange = Exchange(old)
        old.recycled = True
        self.arbiter.retire(old)

    def _lost(self, one: Exchange) -> None:
        """The replacement died. Where the kernel killed it there is no room for both, and the old worker,
        which has grown the longest, would be the next that it picks: it goes first this time."""
        ended = one.newcomer.ended
        if ended.reason != "killed for memory" or one.old.retired or one.old.pid not in self.arbiter.WORKERS:
            self._failed(why_ended(one.newcomer))
            return
        message = (
            f"the replacement of worker {one.old.pid} was killed for memory: this time the old one goes first"
        )
        events.emit(self.arbiter.log, "warning", "recycle_turned", message, worker=one.old.pid)
        self._go_first(one.old)

    def _deploying(self) -> bool:
        """Another colour is up: it may stand on the very memory that is kept for a replacement.

        That is over in a minute or so, and a due worker serves well meanwhile.
        """
        now = time.monotonic()
        if not another_runs(os.environ):
            self.deploying_since = 0.0
            return False
        self.deploying_since = self.deploying_since or now
        return now - self.deploying_since < DEPLOY_LIMIT

    def _without_the_old(self, one: Exchange) -> None:
        """The one that was due is gone before its replacement came, which takes the place if one is free."""
        if len(self.arbiter.serving()) < self.arbiter.num_workers:
            one.newcomer.extra = False
        else:
            self.arbiter.retire(one.newcomer)
        self.exchange = None

    def _failed(self, why: str) -> None:
        self.exchange = None
        self.failures += 1
        seconds = pause(self.failures)
        self.not_before = time.monotonic() + seconds
        message = f"no worker is recycled, the old one serves on; another try in {seconds:g} s: {why}"
        events.emit(self.arbiter.log, "error", "recycle_failed", message, seconds=seconds)

    def stop(self) -> None:
        """Something greater has come: the replacement goes if it is not ready, and the memory is awaited."""
        one, self.exchange = self.exchange, None
        if one is None:
            return
        if one.newcomer is not None and one.newcomer.extra:
            self.arbiter.retire(one.newcomer)
            self.arbiter.await_end(one.newcomer)
        elif one.old.retired:
            self.arbiter.await_end(one.old)


def in_force() -> str:
    """``replace-first`` (memory for the replacement is reserved) or ``retire-first``, as the plan has it."""
    made = config.plan_in_force()
    planned = made.fields.get("recycling") if made is not None else None
    return str(planned.value) if planned is not None else "replace-first"
