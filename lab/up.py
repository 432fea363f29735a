"""The story of `make up`: from a bare machine to an app that answers on a host of 512 MB and 1 CPU.

Each step is done only as far as it is not done yet, so a second `make up` takes seconds and one that was
interrupted goes on. `make down` ends by id exactly what this started.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import textwrap
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from lab import checkout, engine, packages, tools
from lab.engine import Engine
from lab.errors import LabError
from lab.host import Host, sweep
from lab.image import STEP as IMAGE_STEP
from lab.image import ensure_base
from lab.machine import Machine
from lab.progress import Steps

APP = "links"
APP_PORT = 8000  # on the host; on this machine the first free port from here on
HOST = "web1"
MEMORY = "512m"
CPUS = 1.0
_DISK_BYTES = 3 * 2**30
_DEPLOY_SECONDS = 300
_TASK = re.compile(r"(?<=^TASK \[)[^]]+")


def up() -> None:
    """Everything from the engine to the answer. LabError in one line where it cannot go on."""
    with Steps() as steps:
        _look_at_machine(steps)
        with steps.step("Docker engine") as outcome:
            docker = engine.ensure(install=True, steps=steps)
            outcome.append(f"{docker.version}, cgroup v{docker.cgroup_version}")
        image = _tools_and_image(steps)
        with steps.step(f"Host {HOST}, {MEMORY.upper()}B, {CPUS:g} CPU") as outcome:
            host, state = _host(docker, image)
            outcome.append(f"{state}, ssh on port {host.ssh_port}")
        _wait_for_deploy(steps, host)
        with steps.step("ansible-playbook playbooks/site.yml") as outcome:
            outcome.append(_deploy(steps, host))
        url = f"http://127.0.0.1:{host.port(APP_PORT)}/"
        with steps.step("First request") as outcome:
            outcome.append(_ask(url))
        seconds = steps.elapsed
    _tell(host, url, seconds)


def down(everything: bool = False) -> None:
    """Take away what `up` and the tests started here; with `everything` their caches as well."""
    with Steps() as steps:
        docker = engine.find()
        if docker is None:
            steps.say("No Docker engine answers: no host runs")
        else:
            with steps.step("Hosts") as outcome:
                mine = docker.containers(f"label={engine.LABEL}={checkout.identity()}")
                for container in mine:
                    docker.call("rm", "-f", "-v", container)
                outcome.append(f"{len(mine)} removed")
            if everything:
                _clean(docker, steps)
        with steps.step("Docker engine") as outcome:
            outcome.append(engine.stop())
        shutil.rmtree(checkout.state_dir(), ignore_errors=True)
        steps.say(f"State removed{'' if everything else '; caches kept (make clean removes them)'}")


def _clean(docker: Engine, steps: Steps) -> None:
    from lab.image import remove_all

    with steps.step("Caches") as outcome:
        outcome.append(f"{remove_all(docker)} base image(s)")
        for path in (tools.VENV, checkout.ROOT / ".ansible", checkout.cache_dir()):
            shutil.rmtree(path, ignore_errors=True)


def _look_at_machine(steps: Steps) -> None:
    if os.uname().sysname != "Linux":
        raise LabError(
            f"the lab needs Linux, this is {os.uname().sysname}: use a Debian 12 or 13 machine or VM"
        )
    free = shutil.disk_usage(checkout.cache_dir()).free
    if free < _DISK_BYTES:
        raise LabError(
            f"{checkout.cache_dir()} has {free // 2**20} MB free, the lab wants {_DISK_BYTES // 2**20}"
        )
    missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    if missing:
        with steps.step("openssh-client"):
            packages.install("openssh-client", ["openssh-client"], steps)


def _tools_and_image(steps: Steps) -> str:
    """Both at once: one waits for the network while the other unpacks."""

    def make_tools() -> None:
        with steps.step(tools.STEP) as outcome:
            outcome.append(tools.ensure(steps))

    def make_image() -> str:
        with steps.step(IMAGE_STEP) as outcome:
            name = ensure_base(steps=steps)
            outcome.append(name)
            return name

    with ThreadPoolExecutor(2) as pool:
        made, image = pool.submit(make_tools), pool.submit(make_image)
        jobs: tuple[Future[None] | Future[str], ...] = (made, image)
        try:
            # The first that fails ends the wait; the result of each that is done tells it.
            for job in as_completed(jobs):  # type: ignore[type-var, misc, unused-ignore]
                job.result()
        except BaseException:
            steps.cancel()
            raise
        return image.result()


def _host(docker: Engine, image: str) -> tuple[Host, str]:
    sweep(docker)
    kept = Host(HOST, memory=MEMORY, cpus=CPUS, image=image, keep=True, docker=docker)
    if kept.attach():
        return kept, "running already"
    fresh = Host(
        HOST,
        memory=MEMORY,
        cpus=CPUS,
        image=image,
        keep=True,
        docker=docker,
        publish=[(_free_port(), APP_PORT)],
    )
    return fresh.start(), "booted"


def _free_port() -> int:
    if given := os.environ.get("PORT"):
        if not given.isdigit() or not 0 < int(given) < 65536:
            raise LabError(f"PORT={given} is no port: give a number from 1 to 65535")
        if not _is_free(int(given)):
            raise LabError(f"PORT={given} is in use on this machine: give another one")
        return int(given)
    return next((port for port in range(APP_PORT, APP_PORT + 100) if _is_free(port)), 0)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _inventory(host: Host) -> str:
    """As a person writes it for a VM of theirs, with what this machine was told about mirrors and proxies."""
    machine = Machine.read()
    variables: dict[str, object] = {
        "gunicorn_app_name": APP,
        "gunicorn_app_app": "app.main:create_app()",
        "gunicorn_app_path": str(checkout.ROOT / "examples" / "fastapi_app"),
        "gunicorn_app_bind": f"0.0.0.0:{APP_PORT}",
        "gunicorn_app_shared": ["data"],
        "gunicorn_app_ready": ["app.ready:database"],
        "gunicorn_app_settings": {"worker_class": "uvicorn"},
    }
    told = machine.installer_environment()
    if told:
        variables["gunicorn_app_installer_env"] = told
    if machine.bundle and Path(machine.bundle).is_file():
        variables["gunicorn_app_ca_bundle"] = machine.bundle
    return host.inventory_file("web", variables)


def _wait_for_deploy(steps: Steps, host: Host) -> None:
    """An interrupted `make up` leaves a deploy that finishes by itself on the host: let it."""
    unit = f"farrier-deploy-{APP}.service"

    def runs() -> bool:
        state = host.run(["systemctl", "is-active", unit], check=False).stdout.strip()
        return state in ("active", "activating", "deactivating")

    if runs():
        with steps.step("An earlier deploy on the host finishes"):
            deadline = time.monotonic() + _DEPLOY_SECONDS
            while runs():
                if time.monotonic() > deadline:
                    raise LabError(f"{unit} runs for over {_DEPLOY_SECONDS} s: see its journal by `make ssh`")
                time.sleep(0.5)


def _deploy(steps: Steps, host: Host) -> str:
    log = checkout.state_dir() / "playbook.log"
    log.unlink(missing_ok=True)
    command = [tools.bin_path("ansible-playbook"), "-i", _inventory(host), "playbooks/site.yml"]
    env = tools.ansible_environment() | {"ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"}
    try:
        steps.stream("ansible-playbook playbooks/site.yml", command, log, env, cwd=checkout.ROOT, tell=_TASK)
    except LabError:
        raise LabError(
            f"the playbook failed: {_failure(log.read_text(errors='replace'))} (all of it: {log})"
        ) from None
    recap = next(line for line in reversed(log.read_text().splitlines()) if line.startswith(HOST))
    return ", ".join(part for part in recap.partition(":")[2].split() if not part.endswith("=0"))


def _failure(text: str) -> str:
    """What Ansible says went wrong: the message of the task that failed."""
    lines = [line.strip() for line in text.splitlines()]
    for line in lines:
        if line.startswith(("[ERROR]", "ERROR!")):
            return line.partition(" ")[2]
    for line in reversed(lines):
        if line.startswith("msg:"):
            return line[4:].strip()
    return lines[-1] if lines else "it said nothing"


def _ask(url: str) -> str:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
            return f"{url} answers {answer.status}"
    except (urllib.error.URLError, OSError) as error:
        raise LabError(f"{url} does not answer: {error}") from None


def _plan(host: Host) -> str:
    """The plan in force, as `farrier plan` draws it."""
    stored = json.loads(host.run(["cat", f"/srv/{APP}/current/plan.json"]).stdout)
    draw = "import json, sys; from farrier.sizing import Plan, render_plan; "
    draw += "print(render_plan(Plan.from_dict(json.load(sys.stdin)), width=int(sys.argv[1])))"
    width = min(shutil.get_terminal_size((110, 24)).columns, 110)
    shown = subprocess.run(
        [tools.bin_path("python"), "-c", draw, str(width)],
        input=json.dumps(stored), capture_output=True, text=True, check=False, env=tools.environment(),
    )  # fmt: skip
    return (
        shown.stdout.rstrip()
        if shown.returncode == 0
        else f"(not shown: {shown.stderr.strip().splitlines()[-1]})"
    )


def _tell(host: Host, url: str, seconds: float) -> None:
    ssh = shlex.join(["ssh", *host.ssh_args])
    says = [host.ssh("sudo farrier status"), host.ssh(f"sudo farrier explain workers --app {APP}")]
    print(f"\nThe plan of {APP} on {HOST} ({MEMORY.upper()}B, {CPUS:g} CPU):\n")
    print(textwrap.indent(_plan(host), "  "))
    for answer in says:
        print()
        print(textwrap.indent((answer.stdout or answer.stderr).rstrip(), "  "))
    print(f"""
Ready in {seconds:.0f} s: {url}

Try next:
  curl {url}health
  make ssh       # on the host; there: sudo farrier explain timeout, sudo farrier doctor
  make deploy    # changes nothing; edit examples/fastapi_app first, and a new release takes over
  make down      # takes it all away

The host over SSH:  {ssh}
""")


def running_host() -> Host:
    """The host that `make up` left running; LabError where none does."""
    docker = engine.find()
    if docker is None:
        raise LabError("no Docker engine answers here: `make up` first")
    host = Host(HOST, keep=True, docker=docker, image=ensure_base())
    if not host.attach():
        raise LabError("no host runs here: `make up` first")
    return host


def deploy() -> None:
    """Run the playbook on the running host with Ansible's own output."""
    host = running_host()
    command = [tools.bin_path("ansible-playbook"), "-i", _inventory(host), "playbooks/site.yml", "--diff"]
    if status := subprocess.run(
        command, cwd=checkout.ROOT, env=tools.ansible_environment(), check=False
    ).returncode:
        raise LabError(f"the playbook failed with status {status}")
