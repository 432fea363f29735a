"""The stream that makes JSON lines of an app's text: nothing lost, nothing mixed, nothing raised."""

from __future__ import annotations

import io
import json
import logging
import threading
import traceback
from typing import Any

import pytest

from farrier.serve.stdio import MOST, JsonStream, whole


def said(raw: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("group", "ended"),
    [
        ("a line\n", True),
        ("half a li", False),
        ("Traceback (most recent call last):\n", False),
        ('Traceback (most recent call last):\n  File "a.py", line 1, in f\n', False),
        ('Traceback (most recent call last):\n  File "a.py", line 1, in f\nKeyError: 1\n', True),
        ("\nDuring handling of the above exception, another exception occurred:\n\n", False),
        ("Exception in thread Thread-1:\n", False),
    ],
)
def test_where_a_group_ends(group: str, ended: bool) -> None:
    assert whole(group) is ended


def test_a_traceback_in_many_writes_is_one_object() -> None:
    raw = io.StringIO()
    stream = JsonStream(raw, "stderr")
    try:
        raise KeyError("x")
    except KeyError:
        traceback.print_exc(file=stream)
    (one,) = said(raw)
    assert (one["severity"], one["message"]) == ("ERROR", "KeyError: 'x'")
    assert one["stack"].startswith("Traceback") and "raise KeyError" in one["stack"]


def test_what_logging_writes_keeps_its_severity() -> None:
    raw = io.StringIO()
    handler = logging.StreamHandler(JsonStream(raw, "stderr"))
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    record = logging.LogRecord("shop", logging.WARNING, "", 0, "low on %s", ("paper",), None)
    handler.handle(record)
    assert [(one["severity"], one["message"]) for one in said(raw)] == [
        ("WARNING", "WARNING:shop:low on paper")
    ]


def test_threads_do_not_mix() -> None:
    raw = io.StringIO()
    stream = JsonStream(raw, "stdout")
    gate = threading.Barrier(4)

    def talk(name: str) -> None:
        gate.wait()
        for number in range(200):
            stream.write(f"{name} ")
            stream.write(f"{number}\n")

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"{name} {number}" for name in "abcd" for number in range(200)}
    assert {one["message"] for one in said(raw)} == expected
    assert len(said(raw)) == 800


def test_a_line_that_never_ends_gets_out_and_so_does_the_rest_at_the_end() -> None:
    raw = io.StringIO()
    stream = JsonStream(raw, "stdout")
    stream.write("x" * (MOST + 1))
    assert len(said(raw)[0]["message"]) == MOST + 1
    stream.write("last words")
    stream.finish()
    assert said(raw)[1]["message"] == "last words"


def test_a_log_that_is_gone_ends_nobodys_request() -> None:
    raw = io.StringIO()
    stream = JsonStream(raw, "stdout")
    raw.close()
    assert stream.write("text\n") == 5
    stream.flush()


def test_only_text_is_taken() -> None:
    with pytest.raises(TypeError, match="takes text"):
        JsonStream(io.StringIO(), "stdout").write(b"bytes")  # type: ignore[arg-type]
