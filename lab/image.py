"""The base image: a small Debian with systemd, an SSH server and Python, as a cloud's own image has them.

It is pulled and fitted out where an image registry answers, and made by debootstrap where none does. Its tag
is the hash of everything that it is made of and of the month, so that a stale one is never taken for a fresh
one. The archive of a made one is kept in the cache folder for the day when the engine's own store was
emptied.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from lab import checkout, engine, packages
from lab.engine import Engine
from lab.errors import LabError
from lab.machine import Machine, Suite, debian_suites, overlay
from lab.privilege import as_root
from lab.progress import Steps

RELEASES = ("bookworm", "trixie")
REPOSITORY = "farrier-lab"
USER = "debian"  # the person with sudo, named as Debian's cloud images name it
BASE_LABEL = "farrier.lab.base"
STEP = "Base image"  # its name in every command's progress

_PACKAGES = (
    "python3", "python3-venv", "python3-apt", "systemd", "systemd-sysv", "dbus", "ca-certificates",
    "iproute2",
    "procps", "tini", "openssh-server", "sudo", "git",
)  # fmt: skip

_FILES = {
    # Keys are made at the first start: two hosts of one image must not share them.
    "/etc/systemd/system/ssh.service.d/50-keys.conf": "[Service]\nExecStartPre=\n"
    "ExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n",
    "/etc/ssh/sshd_config.d/50-lab.conf": "PasswordAuthentication no\nUseDNS no\n",
    f"/etc/sudoers.d/{USER}": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    "/etc/dpkg/dpkg.cfg.d/50-slim": "path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n"
    "path-exclude=/usr/share/locale/*\n",
    "/etc/apt/apt.conf.d/50-no-recommends": 'APT::Install-Recommends "0";\n',
    # The cpu controller stays on. Where nothing asks for it any more (a logout, a weight taken back), systemd
    # on cgroup v1 moves every process, PID 1 too, to the hierarchy's root: that is the machine's own for a
    # container in the host's namespace, so the host would lose its `--cpus` in the middle of a test.
    "/etc/systemd/system/system.slice.d/50-cpu.conf": "[Slice]\nCPUWeight=100\n",
}

# Timers that would take dpkg's lock under a test's feet, and consoles that a container does not have.
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
    "console-getty.service", "getty@.service", "getty-static.service", "systemd-udevd.service",
)  # fmt: skip

_FINISH = f"""set -e
export DEBIAN_FRONTEND=noninteractive
update-ca-certificates >/dev/null
id {USER} >/dev/null 2>&1 || useradd --create-home --shell /bin/bash {USER}
for unit in {" ".join(_MASKED)}; do ln -sf /dev/null /etc/systemd/system/$unit; done
ln -sf /lib/systemd/system/multi-user.target /etc/systemd/system/default.target
rm -f /etc/ssh/ssh_host_* /var/log/*.log /var/log/apt/*
: > /etc/machine-id
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/*
"""

_PULL_ANSWER_SECONDS = 8.0
_ROOMY_BYTES = 2 * 2**30  # a base takes 0.5 GB while it is made


def ensure_base(release: str = "bookworm", machine: Machine | None = None, steps: Steps | None = None) -> str:
    """The name of a base image of `release` that the engine holds, made now if it does not yet.

    `machine` is what the image inherits (mirror settings, proxies, certificates): this machine's own by
    default, `Machine()` for nothing. Takes about a minute when it has to be made, under a second when it is
    there. LabError where it cannot be made.
    """
    if release not in RELEASES:
        raise LabError(f"release {release!r} is not one of {', '.join(RELEASES)}")
    machine = Machine.read() if machine is None else machine
    docker = engine.ensure()
    tag = f"{release}-{_key(release, machine)}"
    name = f"{REPOSITORY}:{tag}"
    with _locked(tag):
        if docker.has_image(name):
            return name
        archive = checkout.cache_dir() / "base" / f"{tag}.tar"
        if archive.is_file():
            _load(docker, archive, name, machine)
        elif not _pulled(docker, release, name, machine, steps):
            _debootstrap(release, archive, machine, steps)
            _load(docker, archive, name, machine)
    return name


def _key(release: str, machine: Machine) -> str:
    parts = (
        release, os.uname().machine, datetime.now(timezone.utc).strftime("%Y-%m"), _FINISH, *_PACKAGES,
        *(f"{path}\0{text}" for path, text in sorted((_FILES | machine.files()).items())),
        *(f"{name}={value}" for name, value in sorted(machine.environment.items())),
    )  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextmanager
def _locked(tag: str) -> Iterator[None]:
    """One process makes an image; the others wait for it and find it made."""
    with (checkout.cache_dir() / f"{tag}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sources(suites: list[Suite]) -> str:
    return "".join(
        f"Types: deb\nURIs: {suite.uri}\nSuites: {suite.name}\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        for suite in suites
    )


def _changes(machine: Machine) -> list[str]:
    """`docker import -c` and `docker commit -c`: the image's metadata."""
    variables = [f"ENV {name}={value}" for name, value in sorted(machine.environment.items())]
    return [
        part
        for change in (*variables, f"LABEL {BASE_LABEL}=yes", 'CMD ["/bin/bash"]')
        for part in ("-c", change)
    ]


def _load(docker: Engine, archive: Path, name: str, machine: Machine) -> None:
    docker.call("import", *_changes(machine), str(archive), name, timeout=300)


def _debootstrap(release: str, archive: Path, machine: Machine, steps: Steps | None) -> None:
    if not packages.has_program("debootstrap"):
        packages.install(STEP, ["debootstrap"], steps or Steps())
    suites = debian_suites(release)
    archive.parent.mkdir(exist_ok=True)
    log = checkout.state_dir() / f"debootstrap-{release}.log"
    log.unlink(missing_ok=True)
    stream = (steps or Steps()).stream
    downloads = archive.parent / "packages" / release
    downloads.mkdir(parents=True, exist_ok=True)
    with _build_root(archive.parent, f"build-{archive.stem}-") as root:
        stream(
            STEP,
            as_root([
                "env", *_proxy(machine), "debootstrap", "--variant=minbase",
                f"--include={','.join(_PACKAGES)}", f"--cache-dir={downloads}",
                release, str(root), suites[0].uri,
            ]),
            log,
        )  # fmt: skip
        files = _FILES | machine.files() | {"/etc/apt/sources.list.d/debian.sources": _sources(suites)}
        _unpack(overlay(files | {"/etc/apt/sources.list": ""}), root)
        stream(STEP, as_root(["chroot", str(root), "/bin/sh", "-c", _FINISH]), log)
        part = archive.with_suffix(".part")
        stream(STEP, as_root(["tar", "--numeric-owner", "-C", str(root), "-cf", str(part), "."]), log)
        part.replace(archive)
    _prune(archive.parent)


def _proxy(machine: Machine) -> list[str]:
    """apt's proxy as debootstrap's downloader reads it."""
    lines = [line for line in machine.apt if line.lower().startswith("acquire::http::proxy")]
    return [f"http_proxy={lines[0].split(chr(34))[1]}"] if lines else []


@contextmanager
def _build_root(folder: Path, prefix: str) -> Iterator[Path]:
    """A folder to unpack a Debian in, in memory where there is plenty, for dpkg waits for the disk."""
    for left_over in folder.glob(f"{prefix}*"):  # of a killed run; the caller holds the lock
        _remove_root(left_over)
    root = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    root.chmod(0o755)
    try:
        if _available_memory() > _ROOMY_BYTES:
            mount = ["mount", "-t", "tmpfs", "-o", "mode=755,size=1g", "tmpfs", str(root)]
            subprocess.run(as_root(mount), capture_output=True, check=False)  # else the disk has to do
        yield root
    finally:
        _remove_root(root)


def _remove_root(root: Path) -> None:
    subprocess.run(as_root(["umount", "-l", str(root)]), capture_output=True, check=False)
    # --one-file-system: a killed debootstrap may leave /proc mounted inside.
    subprocess.run(as_root(["rm", "-rf", "--one-file-system", str(root)]), check=False)


def _available_memory() -> int:
    """MemAvailable in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _unpack(archive: bytes, root: Path) -> None:
    subprocess.run(as_root(["tar", "-x", "-C", str(root), "-f", "-"]), input=archive, check=True)


def _prune(folder: Path) -> None:
    """Archives of months gone by."""
    for old in [*folder.glob("*.tar"), *folder.glob("*.part")]:
        if time.time() - old.stat().st_mtime > 40 * 86400:
            old.unlink(missing_ok=True)


def _pulled(docker: Engine, release: str, name: str, machine: Machine, steps: Steps | None) -> bool:
    """Whether a registry answered and the image could be made from Debian's own."""
    source = f"debian:{release}-slim"
    if os.environ.get("FARRIER_PULL", "yes").lower() in ("no", "0", "false") or not _pull(docker, source):
        return False
    try:
        fit_out(docker, source, name, machine, steps)
    except LabError:
        return False  # the container cannot reach the mirrors as it was pulled: make it instead
    return True


def _pull(docker: Engine, source: str) -> bool:
    """Pull, and give up soon where no registry answers: its first line comes with the manifest."""
    process = subprocess.Popen(
        [*docker.command, "pull", source],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        if process.stdout and select.select([process.stdout], [], [], _PULL_ANSWER_SECONDS)[0]:
            process.communicate(timeout=240)
            return process.returncode == 0
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return False


def fit_out(docker: Engine, source: str, name: str, machine: Machine, steps: Steps | None = None) -> None:
    """Make the base image `name` from Debian's image `source` with apt inside a container."""
    install = f"set -e\napt-get -q update\napt-get -q -y install {' '.join(_PACKAGES)}\n"
    environment = [part for key, value in machine.environment.items() for part in ("-e", f"{key}={value}")]
    container = docker.call(
        "create", "--label", f"{engine.LABEL}={checkout.identity()}", "-e", "DEBIAN_FRONTEND=noninteractive",
        *environment, source, "/bin/sh", "-c", install + _FINISH,
    ).stdout.strip()  # fmt: skip
    log = checkout.state_dir() / "fit-out.log"
    try:
        files = overlay(_FILES | machine.files())
        subprocess.run([*docker.command, "cp", "-", f"{container}:/"], input=files, check=True)
        (steps or Steps()).stream(STEP, [*docker.command, "start", "-a", container], log)
        docker.call("commit", *_changes(machine), container, name, timeout=300)
    finally:
        docker.call("rm", "-f", "-v", container, check=False)


def remove_all(docker: Engine) -> int:
    """Remove every base image that a lab made and their archives; how many images went."""
    names = docker.call("images", "-q", "--filter", f"label={BASE_LABEL}").stdout.split()
    for name in dict.fromkeys(names):
        docker.call("rmi", "-f", name, check=False)
    subprocess.run(as_root(["rm", "-rf", str(checkout.cache_dir() / "base")]), check=False)
    return len(names)
