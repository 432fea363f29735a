"""The app's lock, as those see it who only look."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from farrier.release import state
from farrier.release.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout("shop", tmp_path)


def test_the_holder_is_named_and_nobody_else_gets_it(layout: Layout) -> None:
    assert state.holder(layout) is None
    with state.locked(layout, "ann"):
        held = state.holder(layout)
        assert held is not None
        assert (held["who"], held["pid"]) == ("ann", os.getpid())
        with pytest.raises(state.Held, match="another run holds it: ann"), state.locked(layout, "bob"):
            pass
    assert state.holder(layout) is None


def test_looks_at_the_same_time_take_each_other_for_no_deploy(layout: Layout) -> None:
    with state.locked(layout, "ann"):
        pass
    descriptor = os.open(layout.lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # what another look does, stopped in the middle
    assert not state.is_locked(layout)
    os.close(descriptor)


def test_a_look_turns_no_run_away(layout: Layout) -> None:
    with state.locked(layout, "ann"):
        pass
    descriptor = os.open(layout.lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    looks = threading.Timer(0.05, os.close, (descriptor,))
    looks.start()
    with state.locked(layout, "ann"):
        assert state.is_locked(layout)
    looks.join()


def test_whoever_holds_it_is_told_from_the_first_moment_to_the_last(layout: Layout) -> None:
    until = time.monotonic() + 1.0
    refused: list[Exception] = []

    def runs() -> None:
        try:
            while time.monotonic() < until:
                with state.locked(layout, "ann", wait=1.0):
                    time.sleep(0.005)  # long enough that a look of a busy machine meets it
        except Exception as error:
            refused.append(error)

    run = threading.Thread(target=runs)
    run.start()
    seen = 0
    while run.is_alive():
        held = state.holder(layout)
        seen += held is not None
        assert held is None or held.get("who") == "ann"
        time.sleep(0.001)  # a look keeps a run out while it lasts
    run.join()
    assert refused == []
    assert seen
