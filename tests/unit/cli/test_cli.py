"""The command line as a person meets it: help, answers, and errors of one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import shtab

from farrier.cli.completion import SHELLS, script
from farrier.cli.main import COMMANDS, build_parser, main

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("GUNICORN_", "FARRIER_", "WORKERS"))}


def farrier(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "farrier", *argv],
        capture_output=True,
        text=True,
        env={**CLEAN, **(env or {})},
        timeout=60,
        check=False,
    )


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    answer = farrier(command, "--help")
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"usage: farrier {command}")


@pytest.mark.parametrize(
    ("argv", "given", "allowed"),
    [
        (["plna"], "plna", "plan, explain"),
        (["plan", "--memory", "lots"], "lots", "512MiB"),
        (["plan", "--cpus", "none"], "none", ""),
        (["plan", "--workload", "slow"], "slow", "io, cpu, mixed, async"),
        (["plan", "--worker-class", "fast"], "fast", "gthread"),
        (["plan", "--worker-class", "eventlet"], "eventlet", "26"),
        (["plan", "--set", "workers=0"], "workers", "1"),
        (["plan", "--set", "wrokers=2"], "wrokers", "workers"),
        (["plan", "--set", "workers"], "workers", "NAME=VALUE"),
        (["plan", "--app-memory", "big"], "--app-memory big", "512MiB"),
        (["plan", "--app-memory", "0"], "--app-memory 0", "above 0"),
        (["plan", "--memory", "0"], "--memory 0", "above 0"),
        (["plan", "--framework", "rails"], "--framework rails", "django"),
        (["plan", "--runtime", "moon"], "moon", "systemd"),
        (["plan", "--bogus"], "--bogus", "--help"),
        (["explain", "color", "--memory", "1g", "--cpus", "1"], "color", "workers"),
        (["explain", "workers", "--app", "nosuch"], "nosuch", "no such app"),
        (["status", "nosuch"], "nosuch", "no such app"),
        (["completion", "ksh"], "ksh", "bash"),
    ],
)
def test_bad_input_is_one_line_that_says_what_was_given_and_what_is_allowed(
    argv: list[str], given: str, allowed: str
) -> None:
    answer = farrier(*argv)
    assert answer.returncode == 2
    assert answer.stdout == ""
    lines = answer.stderr.strip().splitlines()
    assert len(lines) == 1, answer.stderr
    assert given in lines[0]
    assert allowed in lines[0]


def test_a_wrong_variable_in_the_environment_is_named() -> None:
    answer = farrier("plan", "--memory", "1g", "--cpus", "1", env={"WORKERS": "0"})
    assert answer.returncode == 2
    assert "WORKERS=0" in answer.stderr
    assert farrier("plan", "--memory", "1g", "--no-environment", env={"WORKERS": "0"}).returncode == 0


def test_plan_json_has_gunicorns_own_names_as_keys() -> None:
    answer = farrier("plan", "--memory", "1GiB", "--cpus", "2", "--set", "workers=3", "--json")
    plan = json.loads(answer.stdout)
    assert plan["workers"] == 3
    assert plan["fields"]["workers"]["source"] == "--set"
    assert {"timeout", "graceful_timeout", "keepalive", "max_requests", "max_requests_jitter"} <= set(plan)
    for field in plan["fields"].values():
        assert {"value", "unit", "why", "bound_by", "source"} <= set(field)
        assert field["why"]


def test_plan_without_options_is_for_this_machine() -> None:
    plan = json.loads(farrier("plan", "--json").stdout)
    assert plan["workers"] >= 1


def test_explain_reads_the_plan_that_a_container_carries(tmp_path: Path) -> None:
    made = farrier("plan", "--memory", "1GiB", "--cpus", "1", "--set", "workers=7", "--json").stdout
    assert "7" in farrier("explain", "workers", env={"FARRIER_PLAN": made}).stdout
    file = tmp_path / "plan.json"
    file.write_text(made)
    assert "7" in farrier("explain", "workers", env={"FARRIER_PLAN": str(file)}).stdout
    broken = farrier("explain", "workers", env={"FARRIER_PLAN": '{"schema": 99'})
    assert broken.returncode == 2
    assert "FARRIER_PLAN" in broken.stderr
    assert len(broken.stderr.strip().splitlines()) == 1


def test_a_reader_that_goes_away_leaves_no_traceback() -> None:
    command = f"{sys.executable} -m farrier plan --memory 1g --cpus 1 | true"
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=CLEAN, check=False)
    assert answer.stderr == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shipped_completion_is_what_the_parser_gives_today(shell: str) -> None:
    assert script(shell) == shtab.complete(build_parser(), shell=shell) + "\n", "run make completions"


@pytest.mark.parametrize("command", ["plan", "explain"])
def test_a_quick_command_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from farrier.cli.main import main\n"
        f"main(['{command}', '--memory', '1g', '--cpus', '1'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=CLEAN, check=True
    )
    loaded = set(answer.stderr.split())
    assert "farrier.sizing" in loaded
    assert not loaded & {
        "asyncio",
        "gunicorn",
        "uvicorn",
        "http.client",
        "ssl",
        "urllib.request",
        "subprocess",
    }
