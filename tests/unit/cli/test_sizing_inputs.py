"""`farrier plan` and `explain` from what was measured, and for several apps of one host."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from farrier.cli.main import main

MIB = 2**20
MEASURED = {
    "schema": 1,
    "interface": "wsgi",
    "worker_class": "gthread",
    "app_memory": 143 * MIB,
    "alone": {"uss": 116 * MIB},
    "shared": {"uss": 8 * MIB},
    "boot_seconds": 1.2,
    "growth_per_1000": 0,
    "cpu_per_request": 0.00186,
    "wait_per_request": 0.05,
    "preload_safe": True,
}
ON = ("--memory", "512MiB", "--cpus", "1", "--no-environment")


@pytest.fixture
def measured(tmp_path: Path) -> str:
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(MEASURED))
    return str(path)


def test_a_plan_from_what_was_measured_says_so(measured: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *ON, "--measured", measured]) == 0
    printed = capsys.readouterr().out
    assert "app: any framework, io, 143 MiB a process (measured)" in printed
    assert main(["plan", *ON, "--measured", measured, "--workload", "mixed", "--json"]) == 0
    load = json.loads(capsys.readouterr().out)["inputs"]["workload"]
    assert (load["kind"], load["measured"], load["wait_per_request"]) == ("mixed", True, 0.05)


def test_explain_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(MEASURED)))
    assert main(["explain", "threads", "--memory", "512MiB", "--cpus", "1", "--measured", "-"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(
        "threads = 45 threads a worker Why: measured 1.86 ms CPU + 50 ms wait a request"
    )


def test_several_apps_get_their_parts_by_weight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apps = tmp_path / "apps.json"
    wiki = {"name": "wiki", "workload": {"framework": "django", "kind": "io"}}
    apps.write_text(json.dumps([{"name": "api", "weight": 300, "measurement": MEASURED}, wiki]))
    machine = ("--memory", "512MiB", "--cpus", "1", "--no-environment")
    assert main(["plan", *machine, "--apps", str(apps), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["api", "wiki"]
    assert sum(one["part"] for one in found.values()) <= 512 * MIB
    for one in found.values():
        assert one["by_weight"] is True
        assert one["plan"]["memory_deploy_peak"] <= one["part"]
        assert one["plan"]["memory_max"] <= one["part"]
    assert main(["plan", *machine, "--apps", str(apps)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("2 apps on 512 MiB, 1 CPU: ") and table[0].endswith("by weight")
    assert [line.split()[:2] for line in table[3:5]] == [["api", "300"], ["wiki", "100"]]


def test_apps_that_fit_are_each_planned_as_if_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apps = tmp_path / "apps.json"
    apps.write_text(json.dumps([{"name": name, "workload": {"framework": "django"}} for name in "abc"]))
    machine = ("--memory", "4GiB", "--cpus", "2", "--no-environment")
    assert main(["plan", *machine, "--framework", "django", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert main(["plan", *machine, "--apps", str(apps), "--json"]) == 0
    printed = capsys.readouterr()
    assert [one["plan"] for one in json.loads(printed.out).values()] == [alone] * 3
    assert printed.err.startswith("warning: a 95 + b 95 + c 95 = 285 connections, more than 100 ")
    assert "database_max_connections in the settings of each, such as 36 (31 and the 5 in" in printed.err
    own = {"database_max_connections": 36}
    apps.write_text(json.dumps([{"name": name, "settings": own} for name in "abc"]))
    assert main(["plan", *machine, "--apps", str(apps)]) == 0
    assert "share one database" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("argv", "content", "said"),
    [
        (("--measured",), "{", "is no JSON"),
        (("--measured",), "[]", "must be the object that farrier measure --json prints"),
        (("--measured",), '{"schema": 9}', "not a measurement: schema is 9, this version reads 1"),
        (("--measured",), None, "cannot be read: No such file"),
        (("--measured",), '{"schema": 1}', "not a measurement: app_memory is missing"),
        (
            ("--measured",),
            '{"schema": 1, "failed": "no answer"}',
            "failed, so that no plan is made of it: no a",
        ),
        (("--measured",), "[" * 100_000, "too deeply nested"),
        (("--measured",), '{"schema": NaN}', "is no JSON: NaN is no number that JSON has"),
        (
            ("--apps",),
            '[{"name": "a", "measurement": {"schema": 1}}]',
            "app 1: not a measurement: app_memory",
        ),
        (("--apps",), '[{"name": "a", "workload": {"boot_seconds": Infinity}}]', "Infinity is no number"),
        (("--apps",), '[{"name": "a\\nb"}]', "app 1: name 'a\\nb': must be the name of the app"),
        (("--apps",), "{}", "must be a list of objects with name, weight, workload, measurement, settings"),
        (
            ("--apps",),
            '[{"name": "a", "wieght": 1}]',
            "app 1: 'wieght' is not known: allowed are name, weight",
        ),
        (("--apps",), '[{"weight": 1}]', "app 1: name None: must be the name of the app"),
        (("--apps",), '[{"name": "a", "weight": 0}]', "weight 0 is not allowed"),
        (("--apps",), '[{"name": "a", "workload": 1}]', "app 1: workload 1: must be an object"),
        (("--apps",), '[{"name": "a"}, {"name": "a"}]', "a: named twice"),
        (("--apps",), '[{"name": "a", "workload": {"app_memory": "600M"}}]', "needs"),
        (("--framework", "flask", "--apps"), "[]", "--framework speaks of one app"),
    ],
)
def test_what_does_not_go_is_one_line(
    argv: tuple[str, ...], content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    assert main(["plan", *ON, *argv, str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
