"""What ``farrier measure`` refuses before it starts anything, and how it prints what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from farrier.cli.main import main
from farrier.cli.measure import _text
from tests.unit.measure.test_table import WHOLE


@pytest.mark.parametrize(
    ("arguments", "given", "allowed"),
    [
        (["shop:app", "--request", "FETCH"], "FETCH", "METHOD /PATH"),
        (["shop:app", "--header", "Host"], "Host", "NAME: VALUE"),
        (["shop:app", "--seconds", "soon"], "soon", "from 2 to 3600"),
        (["shop:app", "--seconds", "1"], "1", "from 2 to 3600"),
        (["shop:app", "--worker-class", "tornado"], "tornado", "sync"),
        (["shop:app", "--memory", "much"], "much", "512MiB"),
        (["shop:app", "--cpus", "many"], "many", "0.5"),
        (["shop:app", "--chdir", "/nowhere/at/all"], "/nowhere/at/all", "a folder"),
        (["shop:app", "--env", "NAME"], "NAME", "NAME=VALUE"),
        (["shop app"], "shop app", "MODULE:APP"),
    ],
)
def test_a_wrong_question_is_one_line(
    arguments: list[str], given: str, allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert given in shown.err
    assert allowed in shown.err


def test_a_program_reads_one_line_and_a_terminal_has_it_indented() -> None:
    code = "from farrier.cli.measure import _print; _print({'schema': 1, 'notes': []}, True)"
    piped = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    assert piped == b'{"schema": 1, "notes": []}\n'
    ours, theirs = os.openpty()
    try:
        subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True)
        shown = os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown.count(b"\n") == 4
    assert json.loads(shown) == json.loads(piped)


def test_output_that_cannot_be_written_is_one_line() -> None:
    code = """
import sys
from farrier.cli.main import main
from farrier.cli.measure import _print
sys.modules["farrier.cli.main"].dispatch = lambda argv: _print({"schema": 1}, True)
sys.exit(main([]))
"""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "farrier: the measurement could not be written: No space left on device\n"


@pytest.mark.parametrize(("failed", "hint"), [(None, True), ("no request succeeded", False)])
def test_nobody_plans_with_a_failure(failed: str | None, hint: bool) -> None:
    assert ("To plan with it" in _text(WHOLE | {"failed": failed}, False)) == hint
