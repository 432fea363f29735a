"""The virtual environment of a release: made, filled exactly as locked, and compiled."""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import command, files, lockfile, room
from .account import Account
from .layout import RUNTIME, VAR, Layout
from .lockfile import Lock
from .python import Python
from .runtime import Runtime
from .spec import Spec

# Pinned: an installer that changes by itself would change what a release holds.
UV = "0.13.8"
GUNICORN = f"gunicorn>={lockfile.GUNICORN_MAJOR},<{lockfile.GUNICORN_MAJOR + 1}"
# What a worker class needs beside Gunicorn.
SERVERS = {"uvicorn": "uvicorn>=0.30", "gevent": "gevent>=24.10.1,<28"}
INSTALL_TIMEOUT = 1800.0
# pip's variables and their names in uv, which does not read pip's.
_UV_NAMES = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_NO_INDEX": "UV_NO_INDEX",
    "PIP_CERT": "SSL_CERT_FILE",
    "PIP_DEFAULT_TIMEOUT": "UV_HTTP_TIMEOUT",
    "PIP_ONLY_BINARY": "UV_NO_BUILD_PACKAGE",
}


@dataclass(frozen=True)
class Installer:
    """pip of the release's own environment, or uv from its tools folder."""

    name: str
    venv: Path
    scratch: Path
    cache: Path
    account: Account
    env: Mapping[str, str]
    say: Callable[[str], None]
    app: str
    """Whose trial it is: what it may take of the memory is free beside what serves."""

    def make(self, python: Python) -> None:
        """A fresh environment; a half-made one is thrown away."""
        files.delete(self.venv)
        self.venv.mkdir()
        os.chown(self.venv, self.account.uid, self.account.gid)
        if self.name == "uv":
            argv = [
                str(uv_path()),
                "venv",
                "--quiet",
                "--allow-existing",
                "--no-project",
                "--python",
                python.path,
            ]
            self._run([*argv, str(self.venv)], self.venv.parent, "venv")
        else:
            self._run([python.path, "-m", "venv", str(self.venv)], self.venv.parent, "venv")

    def install(self, args: list[str], cwd: Path, what: str = "dependencies") -> None:
        python = str(self.venv / "bin" / "python")
        if self.name == "uv":
            argv = [str(uv_path()), "pip", "install", "--quiet", "--no-progress", "--compile-bytecode"]
            argv += ["--python", python]
        else:
            argv = [python, "-m", "pip", "install", "--quiet", "--no-input", "--no-cache-dir", "--no-compile"]
            argv += ["--disable-pip-version-check", "--no-warn-script-location", "--progress-bar=off"]
        self._run([*argv, *args], cwd, what)
        # uv makes this one for everybody to write.
        if (lock := self.venv / ".lock").is_file() and not lock.is_symlink():
            lock.chmod(0o644)

    def compile(self) -> None:
        """Bytecode after pip's install, in one small process: the app may not write it later."""
        if self.name == "uv":
            return
        argv = [
            str(self.venv / "bin" / "python"),
            "-m",
            "compileall",
            "-q",
            "-j",
            "1",
            str(self.venv / "lib"),
        ]
        # Files that are templates or for other versions do not compile, and need not.
        argv = ["/bin/sh", "-c", '"$@" >/dev/null 2>&1 || true', "sh", *argv]
        self._run(argv, self.venv, "bytecode")

    def _run(self, argv: list[str], cwd: Path, what: str) -> None:
        room.run(
            argv,
            self.account,
            self.app,
            env=self._env(),
            cwd=cwd,
            timeout=INSTALL_TIMEOUT,
            on_line=self.say,
            what=what,
        )

    def _env(self) -> dict[str, str]:
        # Not /tmp, which may be memory: an unpacked wheel can be hundreds of MiB.
        env = {"HOME": str(self.scratch), "TMPDIR": str(self.scratch), **self.env}
        if self.name == "uv":
            env = {**uv_names({**pip_conf(), **self.env}), **env, "UV_CACHE_DIR": str(self.cache)}
            env |= {
                "UV_PYTHON_DOWNLOADS": "never",
                "UV_CONCURRENT_INSTALLS": "1",
                "UV_CONCURRENT_BUILDS": "1",
            }
        return command.base_env(env, self.venv / "bin")


def uv_names(env: Mapping[str, str]) -> dict[str, str]:
    """What uv should know of pip's settings; uv's own names stand above them."""
    return {_UV_NAMES[name]: value for name, value in env.items() if name in _UV_NAMES and value}


def pip_conf() -> dict[str, str]:
    """The host's own pip configuration, as pip's variables: an index that an admin set counts for uv too."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(["/etc/xdg/pip/pip.conf", "/etc/pip.conf"])
    except configparser.Error:
        return {}
    out: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            for key, value in parser.items(section):
                out[f"PIP_{key.replace('-', '_').upper()}"] = " ".join(value.split())
    return out


def uv_path() -> Path:
    return RUNTIME / "tools" / f"uv-{UV}" / "bin" / "uv"


def has_uv() -> bool:
    return (RUNTIME / "tools" / f"uv-{UV}" / ".done").is_file() and uv_path().is_file()


def ensure_uv(python: Python, env: Mapping[str, str], say: Callable[[str], None], app: str) -> bool:
    """Installs the pinned uv into its tools folder for a deploy of `app`; True if it had to."""
    if has_uv():
        return False
    folder = RUNTIME / "tools" / f"uv-{UV}"
    files.delete(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = VAR / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    full = command.base_env({"HOME": str(scratch), "TMPDIR": str(scratch), **env})
    say(f"fetching uv {UV}")
    try:
        # pip straight from the wheel that ensurepip holds: an environment for it would cost seconds.
        pip = [python.path, f"{python.pip_wheel}/pip", "install", "--quiet", "--no-input", "--no-cache-dir"]
        pip += ["--no-compile", "--disable-pip-version-check", "--only-binary=:all:"]
        pip += ["--target", str(folder), f"uv=={UV}"]
        room.run(pip, None, app, env=full, timeout=600, what="uv")
        (folder / ".done").touch()
    except BaseException:
        files.delete(folder)
        raise
    finally:
        files.delete(scratch)
    return True


def locked_lines(lock: Lock, python: Python, spec: Spec, say: Callable[[str], None]) -> list[str]:
    """The requirements of the source, flat, as its lock says."""
    if lock.kind == "requirements.txt":
        return list(lockfile.flatten(lock.path))
    if lock.kind == "poetry.lock":
        return lockfile.from_poetry(lock, python).splitlines()
    if lock.kind == "uv.lock":
        ensure_uv(python, spec.installer_env, say, spec.name)
        argv = [
            str(uv_path()),
            "export",
            "--frozen",
            "--no-dev",
            "--no-emit-project",
            "--no-header",
            "--quiet",
        ]
        argv += [
            "--no-annotate",
            "--format=requirements.txt",
            "--python",
            python.path,
            "--project",
            str(lock.project),
        ]
        env = command.base_env({**spec.installer_env, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_CACHE": "1"})
        text = room.run(argv, None, spec.name, env=env, timeout=120, what="uv.lock")
        return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    if lock.kind == "pyproject.toml" and not lock.installs_project:
        data = lockfile.read_toml(lock.path, python)
        return [str(item) for item in data.get("project", {}).get("dependencies", [])]
    return []


def fill(
    installer: Installer,
    spec: Spec,
    layout: Layout,
    lock: Lock,
    lines: list[str],
    runtime: Runtime,
    server: str | None,
) -> None:
    """Installs the locked requirements, the project itself, the extras and the runtime, in this order."""
    folder = installer.venv.parent
    constraints = folder / "constraints.txt"
    wheel = runtime.placed_wheel
    files.write(constraints, f"farrier @ {wheel.as_uri()}\n")
    limit = ["-c", str(constraints)]
    own = ["farrier", *(["gunicorn"] if spec.override_gunicorn else [])]
    locked = lockfile.without(lines, *own)
    hashed = any("--hash=" in line for line in locked)
    if not hashed:
        locked += _unhashed(spec, lines, lock)
    if locked:
        files.write(folder / "locked.txt", "\n".join([*locked, ""]), 0o640, installer.account.gid)
        # With hashes nothing may be added to the list, a constraint neither.
        installer.install(["-r", str(folder / "locked.txt"), *([] if hashed else limit)], lock.project)
    rest = _unhashed(spec, lines, lock) if hashed else []
    if rest:
        files.write(folder / "asked.txt", "\n".join([*rest, ""]), 0o640, installer.account.gid)
        installer.install(["-r", str(folder / "asked.txt"), *limit, *_frozen(folder, locked)], lock.project)
    if lock.installs_project:
        no_deps = ["--no-deps"] if lock.kind != "pyproject.toml" else limit
        installer.install([*no_deps, "-e", str(lock.project)], lock.project, "the project itself")
    ours = [str(wheel), GUNICORN, *([SERVERS[server]] if server else [])]
    if spec.override_gunicorn:
        installer.install(["--no-deps", GUNICORN], folder, "gunicorn")
        ours = [str(wheel), *([SERVERS[server]] if server else [])]
    installer.install([*ours, *_frozen(folder, locked)], folder, "the runtime")


def _unhashed(spec: Spec, lines: list[str], lock: Lock) -> list[str]:
    """What is asked for beside the lock."""
    named = [spec.source.requirement] if spec.source.type == "requirement" and spec.source.requirement else []
    return [*named, *spec.extra_requirements]


def _frozen(folder: Path, locked: list[str]) -> list[str]:
    """Constraints that keep later installs from moving what the lock pinned."""
    import re

    pins = [re.split(r"\s+--hash=|\s*;", line)[0].strip() for line in locked]
    pins = [re.sub(r"\[[^\]]*\]", "", pin) for pin in pins if re.search(r"^[\w.-]+(\[[^\]]*\])?\s*==", pin)]
    if not pins:
        return []
    files.write(folder / "pins.txt", "\n".join([*pins, ""]))
    return ["-c", str(folder / "pins.txt")]


def farrier_versions(venv: Path) -> str:
    """The version of Gunicorn that the environment holds."""
    found = sorted(venv.glob("lib/python3.*/site-packages/gunicorn-*.dist-info"))
    return found[-1].name.removeprefix("gunicorn-").removesuffix(".dist-info") if found else ""
