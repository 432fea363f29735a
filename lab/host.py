"""A systemd host in a container: real units, real SSH, held to the memory and CPU that it was given.

    with Host("web", memory="256m", cpus=0.5) as host:
        host.run(["systemctl", "status"])
        subprocess.run(["ansible-playbook", "-i", host.inventory_file(), "site.yml"])

The container has what systemd needs and no more: SYS_ADMIN, no seccomp or AppArmor profile, the machine's
cgroup tree (systemd makes its groups below the container's own, so the limits hold), tmpfs on /run. Seen to
work on a machine with cgroup v1 (Debian 12 and 13; 13 has to be told that v1 is meant). On cgroup v2 the same
flags are what others use, but nobody has run this module there yet.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from lab import checkout, engine
from lab.engine import LABEL, Engine
from lab.errors import LabError
from lab.image import USER, ensure_base

OWNER_LABEL = "farrier.lab.owner"  # pid and start time of the process that a host belongs to
KEEP_LABEL = "farrier.lab.keep"  # hosts that outlive their process: `make up`'s
_BOOT_SECONDS = 90.0


def _owner() -> str:
    return f"{os.getpid()}-{engine.started_at(os.getpid())}"


def sweep(docker: Engine) -> int:
    """Remove hosts of this checkout whose process has gone; how many there were."""
    form = f'{{{{.ID}}}} {{{{.Label "{OWNER_LABEL}"}}}} {{{{.Label "{KEEP_LABEL}"}}}}'
    listed = docker.call(
        "ps", "-a", "--no-trunc", "--filter", f"label={LABEL}={checkout.identity()}",
        "--filter", f"label={OWNER_LABEL}", "--format", form,
    )  # fmt: skip
    left_over = []
    for line in listed.stdout.splitlines():
        container, owner, *keep = line.split()
        pid, _, started = owner.partition("-")
        if not keep and engine.started_at(int(pid)) != started:
            left_over.append(container)
    for container in left_over:
        docker.call("rm", "-f", "-v", container, check=False)
    return len(left_over)


def key_file() -> Path:
    """The private key that opens every host of this checkout; made when first asked for."""
    key = checkout.state_dir() / "id_ed25519"
    if not key.exists():
        try:
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "farrier lab", "-f", str(key)],
                check=True, stdin=subprocess.DEVNULL, capture_output=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise LabError("no ssh-keygen here: install openssh-client, then try again") from None
        except subprocess.CalledProcessError:
            if not key.exists():  # two processes at once: the other one made it
                raise
    return key


class Host:
    """A systemd host. A context manager: it is there inside the `with`, and gone after it, whatever happened.

    memory: as Docker writes it (`512m`), without swap. cpus: 0.5 is half a CPU. cpuset: these processors of
    the machine and no quota instead ("0" is one CPU that nothing throttles). publish: ports of the host that
    get a loopback port of this machine besides SSH, each either the host's port or (machine's port, host's
    port). keep: the host outlives this process until `remove_named` or `make down`. capabilities, volumes,
    options: more for Docker (an inner engine wants NET_ADMIN and a volume on /var/lib/docker).
    """

    def __init__(
        self,
        name: str = "host",
        *,
        memory: str = "512m",
        cpus: float = 1.0,
        cpuset: str = "",
        release: str = "bookworm",
        image: str | None = None,
        publish: Sequence[int | tuple[int, int]] = (),
        keep: bool = False,
        capabilities: Sequence[str] = (),
        volumes: Sequence[str] = (),
        options: Sequence[str] = (),
        docker: Engine | None = None,
    ) -> None:
        self.name = name
        self.memory = memory
        self.cpus = cpus
        self.cpuset = cpuset
        self.release = release
        self.image = image
        self.publish = tuple(publish)
        self.keep = keep
        self._more = (
            *(part for capability in capabilities for part in ("--cap-add", capability)),
            *(part for volume in volumes for part in ("-v", volume)),
            *options,
        )
        self._docker = docker
        self.container = ""

    @property
    def docker(self) -> Engine:
        """The engine that runs this host."""
        if self._docker is None:
            self._docker = engine.ensure()
        return self._docker

    @property
    def container_name(self) -> str:
        """Unique on this machine: checkout, name, and the process where the host does not outlive it."""
        stem = f"farrier-{checkout.identity()}-{self.name}"
        return stem if self.keep else f"{stem}-{os.getpid()}"

    def __enter__(self) -> Host:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.keep:
            self.remove()

    def start(self) -> Host:
        """Create the container, boot it, let our key in. Ready means: systemd is up and sshd answers."""
        image = self.image or ensure_base(self.release)
        sweep(self.docker)
        try:
            self.container = self.docker.call(*self._create(image)).stdout.strip()
            self.docker.call("start", self.container)
            self._wait_for_systemd()
            self._let_in()
            self._wait_for_ssh()
        except BaseException:
            if self.container:
                self.remove()
            raise
        return self

    def attach(self) -> bool:
        """Take up a kept host that an earlier process left running; whether there was one."""
        found = self.docker.containers(f"name=^{self.container_name}$")
        if not found:
            return False
        self.container = found[0]
        state = self.docker.call(
            "inspect", "-f", "{{.State.Running}} {{.Config.Image}}", self.container
        ).stdout.split()
        wanted = self.image or ensure_base(self.release)
        if state != ["true", wanted]:
            self.remove()
            return False
        self._wait_for_systemd()
        self._let_in()
        self._wait_for_ssh()
        return True

    def remove(self) -> None:
        """Take the host and its volumes away, by the id of what was started."""
        if self.container:
            self.docker.call("rm", "-f", "-v", self.container, check=False)
        self.container = ""
        for path in (self._known_hosts, self._inventory):
            path.unlink(missing_ok=True)

    def _create(self, image: str) -> list[str]:
        ports = [entry if isinstance(entry, tuple) else ("", entry) for entry in self.publish]
        legacy = ["SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"] if self.docker.cgroup_version == 1 else []
        return [
            "create", "--name", self.container_name, "--hostname", self.name, "-t",
            "--label", f"{LABEL}={checkout.identity()}", "--label", f"{OWNER_LABEL}={_owner()}",
            *(["--label", f"{KEEP_LABEL}=yes"] if self.keep else []),
            "--memory", self.memory, "--memory-swap", self.memory,
            *(["--cpuset-cpus", self.cpuset] if self.cpuset else ["--cpus", str(self.cpus)]),
            "--cap-add", "SYS_ADMIN",
            "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
            "--cgroupns", "host", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw",
            "--tmpfs", "/run:exec,mode=755", "--tmpfs", "/run/lock", "-e", "container=docker",
            "--stop-signal", "SIGRTMIN+3", "-p", "127.0.0.1::22",
            *(part for machine, port in ports for part in ("-p", f"127.0.0.1:{machine}:{port}")),
            *self._more, image, "/lib/systemd/systemd", *legacy,
        ]  # fmt: skip

    def _wait_for_systemd(self) -> None:
        deadline = time.monotonic() + _BOOT_SECONDS
        state = "nothing"
        while time.monotonic() < deadline:
            answer = self.run(["systemctl", "is-system-running"], check=False)
            state = answer.stdout.strip() or answer.stderr.strip() or state
            if state == "running":
                return
            if state == "degraded":
                failed = self.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).stdout
                units = [line.split()[0] for line in failed.splitlines() if line.strip()]
                raise LabError(f"host {self.name}: units failed at boot: {', '.join(units)}")
            if (
                self.docker.call("inspect", "-f", "{{.State.Running}}", self.container).stdout.strip()
                != "true"
            ):
                last = self.docker.call("logs", "--tail", "3", self.container, check=False).stdout.strip()
                raise LabError(f"host {self.name}: systemd ended at once: {last or 'it said nothing'}")
            time.sleep(0.1)
        raise LabError(f"host {self.name}: systemd is not up after {_BOOT_SECONDS:.0f} s (it says: {state})")

    def _let_in(self) -> None:
        public = key_file().with_suffix(".pub").read_text()
        for home, user in ((f"/home/{USER}", USER), ("/root", "root")):
            self.write(f"{home}/.ssh/authorized_keys", public, mode=0o600, owner=user)
            self.run(["chown", f"{user}:", f"{home}/.ssh"])
        host_key = self.run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]).stdout.split()[:2]
        # By its name: the engine gives a host that is started again another port.
        self._known_hosts.write_text(f"{self.container_name} {' '.join(host_key)}\n")

    def _wait_for_ssh(self) -> None:
        deadline = time.monotonic() + 30
        while (answer := self.ssh("true")).returncode:
            if time.monotonic() > deadline:
                raise LabError(
                    f"host {self.name}: ssh does not answer: {answer.stderr.strip().splitlines()[-1:]}"
                )
            time.sleep(0.2)

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        user: str = "root",
        input: str | None = None,
        timeout: float | None = 300,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host (by `docker exec`, so it works without SSH) and capture what it says.

        check: LabError, with the command's last line, where it fails.
        """
        flags = [part for name, value in (env or {}).items() for part in ("-e", f"{name}={value}")]
        stdin = ["-i"] if input is not None else []
        # Without -i docker gives the command no input; an empty one here keeps it from ours.
        result = subprocess.run(
            [*self.docker.command, "exec", *stdin, *flags, "-u", user, self.container, *command],
            capture_output=True, text=True, input=input or "", timeout=timeout, check=False,
        )  # fmt: skip
        if check and result.returncode:
            said = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
            raise LabError(
                f"host {self.name}: {' '.join(command)[:120]} exited {result.returncode}: {said[-1]}"
            )
        return result

    def shell(self, script: str) -> str:
        """Run a script with `sh -ec` as root and give back what it wrote; LabError where it fails."""
        return self.run(["sh", "-ec", script]).stdout

    def ssh(self, command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command line over SSH as the person with sudo."""
        return subprocess.run(
            ["ssh", *self.ssh_args, command], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=timeout, check=False,
        )  # fmt: skip

    def write(self, path: str, text: str, *, mode: int = 0o644, owner: str = "root") -> None:
        """Write a file on the host; folders that lack are made."""
        self.run(
            ["sh", "-ec", 'mkdir -p "$(dirname "$1")"; cat > "$1"; chmod "$2" "$1"; chown "$3:" "$1"', "sh",
             path, f"{mode:o}", owner],
            input=text,
        )  # fmt: skip

    def read(self, path: str) -> str:
        """A file's text on the host."""
        return self.run(["cat", path]).stdout

    def put(self, source: Path, path: str) -> None:
        """Copy a file or a folder of this machine to the host, owned by root."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(source, arcname=path.lstrip("/"), filter=_owned_by_root)
        subprocess.run(
            [*self.docker.command, "cp", "-", f"{self.container}:/"], input=buffer.getvalue(), check=True
        )

    @property
    def ssh_port(self) -> int:
        """The loopback port of this machine that leads to the host's sshd."""
        return self.port(22)

    def port(self, port: int) -> int:
        """The loopback port of this machine that leads to a published port of the host."""
        answer = self.docker.call("port", self.container, f"{port}/tcp").stdout
        return int(answer.splitlines()[0].rpartition(":")[2])

    @property
    def address(self) -> str:
        """The host's own address, reachable from this machine where the engine is local."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return self.docker.call("inspect", "-f", form, self.container).stdout.split()[0]

    @property
    def ssh_options(self) -> list[str]:
        """Options of ssh that find the host's port, our key and the host's own key; no destination."""
        return [
            "-p", str(self.ssh_port), "-i", str(key_file()), *self._identities, "-o", "BatchMode=yes",
            "-o", "ConnectTimeout=10",
        ]  # fmt: skip

    @property
    def _identities(self) -> list[str]:
        """Options of ssh: no key but the one that is named, and the host's own key by the host's name."""
        return [
            "-o", "IdentitiesOnly=yes", "-o", f"HostKeyAlias={self.container_name}",
            "-o", f"UserKnownHostsFile={self._known_hosts}", "-o", "StrictHostKeyChecking=yes",
        ]  # fmt: skip

    @property
    def ssh_args(self) -> list[str]:
        """What follows `ssh` on a command line: options and destination."""
        return [*self.ssh_options, f"{USER}@127.0.0.1"]

    @property
    def _known_hosts(self) -> Path:
        return checkout.state_dir() / f"known_hosts.{self.container_name}"

    @property
    def _inventory(self) -> Path:
        return checkout.state_dir() / f"{self.container_name}.yml"

    def inventory(self, group: str = "web", variables: dict[str, object] | None = None) -> str:
        """An Ansible inventory (YAML, written as JSON) with this one host in `group`."""
        pairs: dict[str, object] = {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.ssh_port,
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(key_file()),
            "ansible_ssh_common_args": shlex.join(self._identities),
            "ansible_python_interpreter": "/usr/bin/python3",
            **(variables or {}),
        }
        return json.dumps({group: {"hosts": {self.name: pairs}}}, indent=2) + "\n"

    def inventory_file(self, group: str = "web", variables: dict[str, object] | None = None) -> str:
        """The path of the inventory, written outside the tree."""
        self._inventory.write_text(self.inventory(group, variables))
        return str(self._inventory)


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
