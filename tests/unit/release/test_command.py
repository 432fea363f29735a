"""Programs that a run starts: what they say, how they end, and what they leave behind."""

from __future__ import annotations

import os
import signal
import time

import pytest

from farrier.errors import FarrierError
from farrier.release import command


@pytest.mark.parametrize("own_words", [False, True])
def test_a_daemon_left_behind_with_the_pipes_open_holds_nobody_up(own_words: bool) -> None:
    """An app may start one at its import."""
    began = time.monotonic()
    said = command.run(["sh", "-c", "setsid sleep 60 & echo $!; echo done"], own_words=own_words)
    pid, last = said.split("\n")
    os.kill(int(pid), signal.SIGKILL)
    assert last == "done"
    assert time.monotonic() - began < 30


def test_all_that_was_said_comes_in_order_and_as_it_is_said() -> None:
    told: list[str] = []
    said = command.run(["sh", "-c", "seq 1 700; echo; printf '  last'"], on_line=told.append)
    assert said.split("\n") == [*(str(one) for one in range(203, 701)), "", "  last"]
    assert told == [*(str(one) for one in range(1, 701)), "  last"]


def test_a_failure_is_told_by_the_last_words() -> None:
    with pytest.raises(FarrierError, match=r"^build: one \| two \(exit status 3\)$"):
        command.run(
            ["sh", "-c", "echo out; echo one >&2; echo two >&2; exit 3"], what="build", own_words=True
        )


def test_no_end_in_time_is_told_with_the_time() -> None:
    with pytest.raises(FarrierError, match=r"^build: no end after 1 s$"):
        command.run(["sh", "-c", "sleep 60"], what="build", timeout=1)
