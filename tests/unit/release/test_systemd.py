"""Finding the one line of a log that a person needs."""

from __future__ import annotations

import json

import pytest

from farrier.release.colour import seconds as _seconds
from farrier.release.command import failure
from farrier.release.systemd import telling_line


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["Starting shop", "ValueError: no such port", "shop@blue.service: Failed with result 'exit-code'."],
         "ValueError: no such port"),
        ([json.dumps({"severity": "INFO", "message": "listening"}),
          json.dumps({"severity": "ERROR", "message": "no database\nmore"})], "Error: no database"),
        (["all was well"], "all was well"),
        ([], ""),
    ],
)  # fmt: skip
def test_the_last_error_is_told(lines: list[str], told: str) -> None:
    assert telling_line(lines) == told


@pytest.mark.parametrize(
    ("status", "lines", "told"),
    [
        (1, ["Collecting x", "ERROR: No matching distribution found for x", "ERROR: later"],
         "ERROR: No matching distribution found for x"),
        (-9, [], "killed (most likely out of memory: give the host more memory or a swap file)"),
        (2, ["error: No solution", "  cause: Because x was not found", "         And because of that, no."],
         "Because x was not found And because of that, no."),
        (1, ["OSError: [Errno 28] No space left on device"], "no space left on the disk"),
        (3, [], "it said nothing (exit status 3)"),
        (-15, ["working"], "working (ended by signal 15)"),
    ],
)  # fmt: skip
def test_a_failed_program_is_one_line(status: int, lines: list[str], told: str) -> None:
    assert failure(status, lines) == told


@pytest.mark.parametrize(
    ("text", "seconds"), [("40s", 40), ("1min 30s", 90), ("500ms", 0.5), ("infinity", 3600)]
)
def test_systemd_s_times_are_read(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds
