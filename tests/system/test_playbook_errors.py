"""Whatever is wrong, a playbook ends in one clear line and the host is as it was.

Real ansible-playbook over real SSH against the lab's systemd host.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab import tools
from lab.checkout import ROOT
from lab.host import Host
from lab.machine import Machine

pytestmark = [pytest.mark.docker, pytest.mark.systemd]

PORT = 8765
SNAPSHOT = (ROOT / "tests" / "molecule" / "shared" / "snapshot.py").read_text()
Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", autouse=True)
def _collection() -> None:
    tools.link_collection()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The smallest app there is; it needs nothing but Gunicorn."""
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "hello.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [b'hello']\n"
    )
    (folder / "requirements.txt").write_text("")
    return folder


@pytest.fixture
def play(lab_host: Host, source: Path) -> Iterator[Play]:
    """Runs a playbook with the variables of the app `hello`, changed as told."""

    def run(playbook: str = "site", *flags: str, **changed: Any) -> subprocess.CompletedProcess[str]:
        machine = Machine.read()
        variables = {
            "gunicorn_app_name": "hello",
            "gunicorn_app_app": "hello:app",
            "gunicorn_app_path": str(source),
            "gunicorn_app_bind": f"127.0.0.1:{PORT}",
            "gunicorn_app_guard": {"seconds": 0},
            "gunicorn_app_ca_bundle": machine.bundle or "",
            "gunicorn_app_installer_env": {
                name: value
                for name, value in machine.pip_environment().items()
                if "CERT" not in name and "CA_" not in name
            },
            **changed,
        }
        command = [tools.bin_path("ansible-playbook"), "-i", lab_host.inventory_file("web"), *flags]
        command += [f"playbooks/{playbook}.yml", "-e", json.dumps(variables)]
        environment = {**os.environ, **tools.environment(), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
        )

    yield run
    if lab_host.run(["test", "-e", "/etc/farrier/hello"], check=False).returncode == 0:
        run("remove")


def _snapshot(host: Host) -> str:
    return host.run(["python3", "-"], input=SNAPSHOT).stdout


@pytest.fixture(scope="module")
def bare(lab_host: Host) -> str:
    """The host before any of these tests."""
    return _snapshot(lab_host)


def _error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that Ansible prints about the failure."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [
        line for line in (done.stdout + done.stderr).splitlines() if line.startswith("[ERROR]: Task failed: ")
    ]
    assert len(lines) == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return re.sub(r"^\[ERROR\]: Task failed: ((Module|Action) failed: )?", "", lines[0])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            {"gunicorn_app_settings": {"worker_class": "tornado"}},
            r"gunicorn_app_settings\.worker_class: .*tornado",
        ),
        (
            {"gunicorn_app_settings": {"workers": 0}},
            r"gunicorn_app_settings\.workers: workers=0: ",
        ),
        ({"gunicorn_app_memory": "lots"}, r"gunicorn_app_memory: given lots: .* such as 512MiB"),
        ({"gunicorn_app_setings": {}}, r"gunicorn_app_setings: .*did you mean gunicorn_app_settings\?"),
        ({"gunicorn_app_settings": "workers=3"}, r"gunicorn_app_settings: given a text; allowed: a mapping"),
        ({"gunicorn_app_name": "root"}, r"gunicorn_app_name: given 'root'; allowed: "),
        ({"gunicorn_app_memory": "20MiB"}, r"gunicorn_app_memory: given 20MiB; hello needs at least \d+ MiB"),
        ({"gunicorn_app_memory": "2GiB"}, r"gunicorn_app_memory: given 2 GiB, more than this host has"),
        ({"gunicorn_app_settings": {"workers": 90}}, r"gunicorn_app_settings\.workers: 90 does not fit"),
        (
            {"gunicorn_app_database": {"max_connections": 3}},
            r"gunicorn_app_database\.max_connections: 3 connections \(yours\) less 5 in reserve = 0",
        ),
        (
            {"gunicorn_app_guard": {"seconds": -1}},
            r"gunicorn_app_guard\.seconds: given -1\.0; allowed: a number from 0 to 3600",
        ),
        ({"gunicorn_app_guard": {"errors": 5}}, r"gunicorn_app_guard\.errors: given 5\.0; allowed: "),
        ({"gunicorn_app_guard": "seconds=3"}, r"gunicorn_app_guard: given a text; allowed: a mapping, such"),
        (
            {"gunicorn_app_notify": {"webhook": "hooks.example.org/T0/S3CR3T"}},
            r"gunicorn_app_notify\.webhook: given a value; allowed: an http or https address",
        ),
        ({"gunicorn_app_bind": "127.0.0.1:22"}, r"gunicorn_app_bind: port 22 is taken on this host by ssh"),
        ({"gunicorn_app_name": "ssh"}, r"gunicorn_app_name: ssh is taken by /"),
        ({"gunicorn_app_path": "/nowhere"}, r"gunicorn_app_path: /nowhere does not exist on this controller"),
        ({"gunicorn_app_python": "3.99"}, r"gunicorn_app_python: 3\.99 is not on this host"),
    ],
)
def test_what_is_wrong_on_its_face_is_refused_in_seconds(
    lab_host: Host, bare: str, play: Play, wrong: dict[str, Any], told: str
) -> None:
    done = play(**wrong)
    error = _error(done)
    assert re.match(told, error), error
    assert "changed=0" in done.stdout
    assert _snapshot(lab_host) == bare


def test_packages_come_with_fresh_lists_where_young_ones_are_empty(lab_host: Host, play: Play) -> None:
    lab_host.shell("rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin && touch /var/lib/apt/lists")
    try:
        done = play(gunicorn_app_system_packages=["ed"], gunicorn_app_app="nothere:app")
        assert _error(done).startswith("gunicorn_app_app: nothere:app does not import"), done.stdout
        assert re.search(r"sure to be of today\] \**\nchanged:", done.stdout), done.stdout
        assert "install ok installed" in lab_host.shell("dpkg -s ed")
        wrong = play(gunicorn_app_system_packages=["no-such-package-anywhere"])
        told = "gunicorn_app_system_packages: apt could not install no-such-package-anywhere: No package"
        assert _error(wrong).startswith(told)
    finally:
        lab_host.shell("apt-get purge -qq -y ed")


def test_a_disk_without_room_is_refused_with_the_figures(lab_host: Host, play: Play) -> None:
    lab_host.shell("mkdir -p /small && mount -t tmpfs -o size=40m tmpfs /small")
    try:
        before = _snapshot(lab_host)
        done = play(gunicorn_app_root="/small/hello")
        assert re.match(
            r"gunicorn_app_root: 40 MiB are free on the disk of /small, a release needs", _error(done)
        )
        assert _snapshot(lab_host) == before
    finally:
        lab_host.shell("umount /small && rmdir /small")


def test_a_disk_that_fills_up_during_the_build_is_left_as_it_was(lab_host: Host, play: Play) -> None:
    lab_host.shell("mkdir -p /small && mount -t tmpfs -o size=300m tmpfs /small")
    try:
        before = _snapshot(lab_host)
        fill = ["dd if=/dev/zero of=fill bs=1M"]
        error = _error(play(gunicorn_app_root="/small/hello", gunicorn_app_build_commands=fill))
        assert error.startswith("gunicorn_app_build_commands: ") and "no space left" in error, error
        assert _snapshot(lab_host) == before
    finally:
        play("remove", gunicorn_app_root="/small/hello")
        lab_host.shell("umount /small && rmdir /small")


def test_a_module_that_does_not_import_leaves_nothing_behind(lab_host: Host, play: Play) -> None:
    before = _snapshot(lab_host)
    done = play(gunicorn_app_app="nothere:app")
    assert re.match(
        r"gunicorn_app_app: nothere:app does not import: .*No module named 'nothere'", _error(done)
    )
    assert _snapshot(lab_host) == before


def test_a_release_that_fails_leaves_the_one_that_serves(lab_host: Host, play: Play, source: Path) -> None:
    done = play()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in play().stdout, "a second run changes nothing"
    before = lab_host.shell(
        "readlink /srv/hello/current; systemctl show hello.socket hello@blue hello@green -p MainPID"
    )
    (source / "hello.py").write_text("raise RuntimeError('the new code is broken')\n")
    done = play()
    assert re.match(r"gunicorn_app_app: hello:app does not import: .*the new code is broken", _error(done))
    after = lab_host.shell(
        "readlink /srv/hello/current; systemctl show hello.socket hello@blue hello@green -p MainPID"
    )
    assert after == before
    fetch = (
        f"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:{PORT}/').read().decode())"
    )
    assert lab_host.run(["python3", "-c", fetch]).stdout.strip() == "hello"


def test_the_plan_is_printed_once_and_its_warnings_are_shown(play: Play) -> None:
    done = play("site", "-v", gunicorn_app_settings={"timeout": 0})
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert told.count("graceful_timeout") == 1 and "bound_by" not in told
    assert re.search(r"\[WARNING\]: gunicorn_app_settings: timeout 0 never ends", told), told
    reasons = play("site", "-vv", gunicorn_app_settings={"timeout": 0}).stdout
    assert re.search(r"^workers = \d+: .* \[\w", reasons, re.MULTILINE), reasons


SECRET = "vEry-s3cret/value+of=mine"
WEBHOOK = "http://127.0.0.1:1/hooks/T01/S3CR3TS3CR3T"


def test_secrets_are_shown_nowhere_and_everything_else_is_readable(
    lab_host: Host, play: Play, source: Path
) -> None:
    (source / "build.py").write_text("import os; print('the key is', os.environ['SECRET_KEY'])\n")
    given = {"SECRET_KEY": SECRET, "DEBUG": "1", "MODE": "s", "SETTINGS": "hello.settings"}
    began = lab_host.shell("date +%s").strip()
    tell = {"webhook": WEBHOOK}
    done = play("site", "-vvv", "--diff", gunicorn_app_env=given, gunicorn_app_notify=tell)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    # The whole parameter is masked; a 1 or an s of the environment is no reason to mask a letter of the rest.
    # (What the diff of the environment masks has its digest beside it, headings end in asterisks.)
    masked = re.findall(r"^(?!TASK|PLAY).*(?<!\*)\*{8}(?! \([0-9a-f]{6}\)).*$", told, re.MULTILINE)
    assert masked == []
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in told and SECRET not in told and WEBHOOK not in told
    again = play(
        "site", "-vvv", gunicorn_app_env=given, gunicorn_app_build_commands=["python build.py", "no"]
    )
    said = again.stdout + again.stderr
    assert again.returncode == 2 and SECRET not in said
    log = lab_host.shell(f"journalctl --no-pager -o cat --since=@{began}")
    assert "Invoked with" in log and SECRET not in log and WEBHOOK not in log
    places = "/etc/farrier /srv/hello /var/lib/farrier /run/farrier /tmp /var/tmp"
    found = lab_host.shell(f"grep -rlF -e '{SECRET}' -e '{WEBHOOK}' {places} || true")
    for path in found.split():
        lab_host.shell(f'test -z "$(find {path} -perm /007)"')


def test_two_runs_at_once_both_end_well(lab_host: Host, play: Play) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(play), pool.submit(play)]
        done = [one.result() for one in both]
    for one in done:
        assert one.returncode == 0, one.stdout + one.stderr
    digest = json.loads(lab_host.read("/etc/farrier/hello/app.json"))["source"]["sha256"]
    assert lab_host.run(["test", "-f", f"/var/lib/farrier/uploads/{digest}.tar.gz"]).returncode == 0
    assert "changed=0" in play().stdout


def test_what_goes_leaves_nothing_behind_and_going_twice_changes_nothing(lab_host: Host, play: Play) -> None:
    before = _snapshot(lab_host)
    assert play().returncode == 0
    done = play("remove")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _snapshot(lab_host) == before
    assert "changed=0" in play("remove").stdout


def test_check_and_diff_on_a_bare_host_show_the_plan_and_change_nothing(lab_host: Host, play: Play) -> None:
    before = _snapshot(lab_host)
    done = play("site", "--check", "--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=1" in done.stdout
    for shown in ("/etc/systemd/system/hello.socket", "ListenStream=127.0.0.1:8765", "plan"):
        assert shown in done.stdout, done.stdout
    assert _snapshot(lab_host) == before


@pytest.mark.parametrize("playbook", ["site", "deploy", "reload"])
def test_a_host_that_does_not_answer_is_told_with_its_name_and_with_those_left_alone(
    tmp_path: Path, playbook: str
) -> None:
    inventory = tmp_path / "hosts.yml"
    host = "ansible_host: 127.0.0.1\n      ansible_port: 1\n"
    inventory.write_text(
        f"web:\n  hosts:\n    away:\n      {host}    farther:\n      {host}"
        "  vars:\n    gunicorn_app_name: hello\n    gunicorn_app_app: hello:app\n"
        "    gunicorn_app_requirement: hello\n"
    )
    command = [tools.bin_path("ansible-playbook"), "-i", str(inventory), f"playbooks/{playbook}.yml"]
    environment = {**os.environ, **tools.environment(), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    told = " ".join((done.stdout + done.stderr).split())
    assert "port 1: Connection refused" in told
    assert "the play stops here, farther is left as before" in told
    assert "farther " not in done.stdout.partition("PLAY RECAP")[2]
    assert "failed=1" in done.stdout and "Traceback" not in done.stdout + done.stderr
