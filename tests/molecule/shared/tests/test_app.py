"""What an operator relies on, asked of the host itself."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "molecule.yml")
APPS: list[dict[str, Any]] = yaml.safe_load(SCENARIO.read_text())["provisioner"]["inventory"]["group_vars"][
    "all"
]["apps"]
MIB = 2**20


@pytest.fixture(scope="session")
def web() -> Any:
    return testinfra.get_host(f"docker://{os.environ['FARRIER_MOLECULE_HOST']}")


@pytest.fixture(params=APPS, ids=lambda app: app["name"])
def app(request: pytest.FixtureRequest) -> dict[str, Any]:
    described: dict[str, Any] = request.param
    return described


def _get(web: Any, app: dict[str, Any], path: str) -> tuple[int, str]:
    port = app["bind"].rpartition(":")[2]
    script = (
        "import sys, urllib.request, urllib.error\n"
        "try: answer = urllib.request.urlopen(sys.argv[1], timeout=20)\n"
        "except urllib.error.HTTPError as error: answer = error\n"
        "print(answer.status); print(answer.read().decode())"
    )
    said = web.check_output("python3 -c %s %s", script, f"http://127.0.0.1:{port}{path}")
    status, _newline, body = said.partition("\n")
    return int(status), body


def _plan(web: Any, app: dict[str, Any]) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(web.file(f"/srv/{app['name']}/current/plan.json").content_string)
    return plan


def _active(web: Any, app: dict[str, Any]) -> str:
    name = app["name"]
    until = time.monotonic() + 15
    while True:
        running = [c for c in ("blue", "green") if web.run(f"systemctl is-active {name}@{c}.service").rc == 0]
        if running or time.monotonic() > until:
            break
        # A worker answers a moment before its arbiter tells systemd so.
        time.sleep(0.2)
    assert len(running) == 1, f"{name}: {running} are running"
    return f"{name}@{running[0]}.service"


def _show(web: Any, unit: str, *properties: str) -> dict[str, str]:
    said = web.check_output(f"systemctl show {unit} -p {','.join(properties)}")
    return dict(line.split("=", 1) for line in said.splitlines())


def test_it_serves(web: Any, app: dict[str, Any]) -> None:
    assert _get(web, app, "/")[0] == 200


def test_it_says_that_it_is_healthy_and_ready(web: Any, app: dict[str, Any]) -> None:
    for path in ("/health", "/health/worker", "/health/ready"):
        assert _get(web, app, path)[0] == 200, path


def test_it_listens_where_it_was_told_and_nowhere_else(web: Any, app: dict[str, Any]) -> None:
    host, _colon, port = app["bind"].rpartition(":")
    rows = [row.split()[3] for row in web.check_output("ss -Hltn").splitlines()]
    assert [row for row in rows if row.endswith(f":{port}")] == [f"{host}:{port}"]


def test_no_app_of_ours_runs_as_root(web: Any, app: dict[str, Any]) -> None:
    unit = _active(web, app)
    group = _show(web, unit, "ControlGroup")["ControlGroup"]
    pids = web.check_output(
        f"find /sys/fs/cgroup -path '*{group}/cgroup.procs' -exec cat {{}} + | sort -u"
    ).split()
    assert pids
    owners = {web.check_output(f"ps -o user:32= -p {pid}").strip() for pid in pids}
    assert owners == {app["name"]}


def test_the_limits_that_systemd_enforces_are_the_plans(web: Any, app: dict[str, Any]) -> None:
    plan = _plan(web, app)
    limits = _show(web, _active(web, app), "MemoryMax", "TimeoutStopUSec")
    assert int(limits["MemoryMax"]) == plan["memory_max"]
    assert plan["graceful_timeout"] < plan["stop_timeout"]


def test_the_workers_that_run_are_the_plans(web: Any, app: dict[str, Any]) -> None:
    state = json.loads(web.check_output(f"cat /run/farrier/{app['name']}/*.json | head -c 100000"))
    assert len(state["workers"]) == _plan(web, app)["workers"]


def test_the_plan_keeps_to_the_memory_that_was_given(web: Any, app: dict[str, Any]) -> None:
    plan = _plan(web, app)
    most = int(app.get("memory", "256MiB").removesuffix("MiB")) * MIB
    assert max(plan["memory_peak"], plan["memory_deploy_peak"]) <= plan["memory_max"] <= most
    assert plan["verdict"]["level"] in ("comfortable", "tight")


def test_it_comes_back_after_a_restart_of_its_service(web: Any, app: dict[str, Any]) -> None:
    web.check_output(f"systemctl restart {_active(web, app)}")
    assert _get(web, app, "/health/ready")[0] == 200


def test_it_comes_back_with_the_next_request_after_its_service_was_stopped(
    web: Any, app: dict[str, Any]
) -> None:
    web.check_output(f"systemctl stop {_active(web, app)}")
    assert _get(web, app, "/")[0] == 200
    _active(web, app)


def test_it_comes_back_after_a_reboot(web: Any, app: dict[str, Any]) -> None:
    assert web.check_output(f"systemctl is-enabled {app['name']}.socket") == "enabled"
    # What a boot does: the socket goes and comes with everything that hangs on it.
    web.check_output(f"systemctl stop {app['name']}.socket {_active(web, app)}")
    web.check_output(f"systemctl start {app['name']}.socket")
    assert _get(web, app, "/health")[0] == 200


def test_secrets_and_releases_are_not_for_everybody(web: Any, app: dict[str, Any]) -> None:
    assert web.file("/var/lib/farrier/uploads").mode == 0o700
    readable = web.check_output(f"find /etc/farrier/{app['name']} -name 'env*' -type f -perm /004")
    assert readable == ""


def test_the_host_says_itself_what_it_serves(web: Any, app: dict[str, Any]) -> None:
    assert app["name"] in web.check_output("/usr/local/bin/farrier status")


def test_the_host_remembers_how_its_releases_went(web: Any, app: dict[str, Any]) -> None:
    known = json.loads(web.check_output(f"/usr/local/bin/farrier release list {app['name']} --json"))
    assert [run["outcome"] for run in known["history"]] == ["good"]
    assert known["history"][0]["release"] == known["release"]


def test_nothing_failed_meanwhile(web: Any) -> None:
    assert web.check_output("systemctl list-units --failed --plain --no-legend") == ""
