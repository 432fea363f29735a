"""The lab's own promises, on a real engine: limits hold, SSH lets in whom it should, nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from lab import checkout, engine, host, image
from lab.errors import LabError
from lab.host import Host
from lab.machine import Machine

pytestmark = [pytest.mark.docker, pytest.mark.systemd]


def test_host_is_up_and_held_to_its_memory(lab_host: Host) -> None:
    assert lab_host.run(["systemctl", "is-system-running"]).stdout.strip() == "running"
    inside = lab_host.shell(
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/docker/*/memory.limit_in_bytes || true"
    )
    told = lab_host.docker.call("inspect", "-f", "{{.HostConfig.Memory}}", lab_host.container).stdout.strip()
    assert told == str(512 * 2**20)
    assert told in inside.split() or lab_host.docker.cgroup_version == 2


def test_ssh_gives_a_person_with_sudo_and_no_password(lab_host: Host) -> None:
    answer = lab_host.ssh("id -un; sudo -n id -un")
    assert answer.stdout.split() == ["debian", "root"]


def test_a_failed_command_is_one_line(lab_host: Host) -> None:
    with pytest.raises(
        LabError, match=r"^host tests: ls /nowhere exited 2: ls: cannot access '/nowhere'.*$"
    ) as caught:
        lab_host.run(["ls", "/nowhere"])
    assert "\n" not in str(caught.value)


def test_files_go_over_and_come_back(lab_host: Host, tmp_path: object) -> None:
    lab_host.write("/srv/lab/note", "a\nb\n", mode=0o600, owner="debian")
    assert lab_host.read("/srv/lab/note") == "a\nb\n"
    assert lab_host.run(["stat", "-c", "%a %U", "/srv/lab/note"]).stdout.split() == ["600", "debian"]
    lab_host.run(["rm", "-r", "/srv/lab"])


def test_host_is_gone_after_an_error_inside(base_image: str, docker_engine: engine.Engine) -> None:
    with pytest.raises(RuntimeError), Host("broken", image=base_image, docker=docker_engine) as broken:
        container = broken.container
        raise RuntimeError
    assert container not in docker_engine.containers()


def test_a_killed_run_is_swept_at_the_next(base_image: str, docker_engine: engine.Engine) -> None:
    script = "import sys, time; from lab.host import Host; h = Host('killed', image=sys.argv[1]).start()\n"
    script += "print(h.container, flush=True); time.sleep(600)"
    child = subprocess.Popen(
        [sys.executable, "-c", script, base_image], stdout=subprocess.PIPE, text=True, cwd=checkout.ROOT
    )
    assert child.stdout is not None
    container = child.stdout.readline().strip()
    assert container in docker_engine.containers(running=True)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert host.sweep(docker_engine) >= 1
    assert container not in docker_engine.containers()


def test_ctrl_c_takes_the_host_away(base_image: str, docker_engine: engine.Engine) -> None:
    # A run in a shell's background has INT ignored, and its children inherit that.
    script = "import signal, sys, time; from lab.host import Host\n"
    script += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "with Host('stopped', image=sys.argv[1]) as h: print(h.container, flush=True); time.sleep(600)"
    child = subprocess.Popen(
        [sys.executable, "-c", script, base_image], stdout=subprocess.PIPE, text=True, cwd=checkout.ROOT,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert child.stdout is not None
    container = child.stdout.readline().strip()
    child.send_signal(signal.SIGINT)
    child.wait(timeout=60)
    assert container not in docker_engine.containers()


def test_a_host_that_cannot_boot_says_so_and_is_gone(docker_engine: engine.Engine, base_image: str) -> None:
    before = time.monotonic()
    failing = Host("failing", image=base_image, options=["--entrypoint", "/bin/false"])
    with pytest.raises(LabError, match=r"^host failing: systemd ended at once"):
        failing.start()
    assert time.monotonic() - before < 30
    assert not docker_engine.containers("name=failing")


def test_an_image_of_debians_own_is_fitted_out(base_image: str, docker_engine: engine.Engine) -> None:
    """What follows a pull, from an image without SSH, person or sudo: no registry is needed to try it."""
    name = "farrier-lab:fitted-out"
    bare = "farrier-lab:bare"
    undo = "apt-get -q -y purge openssh-server sudo; userdel -r debian; rm -rf /etc/sudoers.d /etc/ssh/*.d"
    container = docker_engine.call("create", base_image, "sh", "-c", undo).stdout.strip()
    try:
        docker_engine.call("start", "-a", container)
        docker_engine.call("commit", container, bare)
        image.fit_out(docker_engine, bare, name, Machine.read())
        with Host("fitted", image=name, docker=docker_engine) as fitted:
            assert fitted.ssh("sudo -n id -un").stdout.strip() == "root"
    finally:
        docker_engine.call("rm", "-f", "-v", container, check=False)
        docker_engine.call("rmi", "-f", name, bare, check=False)
