"""What -v shows of a host's run while it is under way."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.farrier.web.plugins.plugin_utils.progress import Reading


def _event(when: float, event: str, **more: Any) -> str:
    return json.dumps({"t": when, "run": "r", "event": event, **more})


def test_each_event_is_told_once_and_what_was_before_is_not() -> None:
    reading = Reading()
    reading.begin(100.0)
    old = _event(99.0, "done", step="source", changed=True, seconds=1, detail="of yesterday")
    first = _event(101.0, "done", step="venv", changed=True, seconds=2.5, detail="Python 3.11, uv")
    assert list(reading.lines(f"{old}\n{first}")) == ["    2.5 s  changed  venv  Python 3.11, uv"]
    line = _event(102.0, "line", detail="12 requests, none failed")
    assert list(reading.lines(f"{first}\n{line}\n{{half a li")) == [f"{'':20}12 requests, none failed"]
    assert reading.told == {"venv"}


def test_a_step_that_takes_long_is_told_when_it_has_begun() -> None:
    reading = Reading()
    begun = _event(101.0, "start", step="guard")
    assert list(reading.lines(begun)) == [f"{'':9}  ...      guard"]
    assert list(reading.lines(begun)) == []
    done = _event(131.0, "done", step="guard", changed=False, seconds=30.0, detail="good")
    assert list(reading.lines(done)) == ["   30.0 s  ok       guard  good"]
