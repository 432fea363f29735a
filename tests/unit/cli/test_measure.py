"""What ``farrier measure`` refuses before it starts anything."""

from __future__ import annotations

import pytest

from farrier.cli.main import main


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
