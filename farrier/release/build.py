"""Building one release: source, environment, dependencies, build commands, import check, migrations.

Each step notes itself in release.json when it is done, so a killed build goes on after the last of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FarrierError
from . import command, files, install, lockfile, room, sized, source, units
from .account import Account
from .events import Journal, Step
from .install import Installer
from .layout import VAR, Layout
from .lockfile import Lock
from .python import Python
from .spec import Spec
from .state import Release
from .view import View

COMMAND_TIMEOUT = 1800.0
# An import may take this many times what a start may, on a disk that has not read the files before.
IMPORT_FACTOR = 4
# Seconds for the interpreter to start and to write where it hangs.
HANG_SLACK = 10.0

# Run by the release's own interpreter as the app's user: what gunicorn's worker would do, and what it costs.
IMPORT_CHECK = """
import json, os, sys, time, traceback
def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
out = os.dup(1)
os.dup2(2, 1)
answer = {}
try:
    import faulthandler
    # From a thread of its own, so that an extension module that never comes back is told as well.
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True, file=open(sys.argv[3], "w"))
    sys.path.insert(0, os.getcwd())
    from gunicorn.util import import_app
    from inspect import iscoroutinefunction, signature
    began = time.monotonic()
    app = import_app(sys.argv[1])
    answer = {"boot_seconds": round(time.monotonic() - began, 3), "app_memory": rss()}
    target = app if not hasattr(app, "__call__") or hasattr(app, "__code__") else app.__call__
    answer["interface"] = "asgi" if iscoroutinefunction(target) else "wsgi"
except BaseException as error:
    here = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    own = [f for f in here if f.filename.startswith(os.getcwd())]
    text = str(error).split("\\n")[0] or "no message"
    answer = {"error": f"{type(error).__name__}: {text}"}
    if own:
        answer["error"] += f" ({os.path.relpath(own[-1].filename)}, line {own[-1].lineno})"
os.write(out, json.dumps(answer).encode())
os._exit(0)
"""


@dataclass
class Build:
    """The building of one release in its folder."""

    view: View
    release: Release
    account: Account
    journal: Journal

    @property
    def spec(self) -> Spec:
        return self.view.spec

    @property
    def layout(self) -> Layout:
        return self.view.layout

    @property
    def folder(self) -> Path:
        return self.layout.release(self.release.id)

    @property
    def src(self) -> Path:
        return self.folder / "src"

    @property
    def venv(self) -> Path:
        return self.folder / "venv"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def python(self) -> Python:
        if self.view.python is None:
            raise FarrierError(f"{self.spec.name}: no interpreter was found", 1)
        return self.view.python

    def run(self) -> None:
        """Every step that is not behind this release yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        seal(self.folder, self.account)
        self.release.save(self.layout)
        self.own(self.scratch)
        self.step("source", self.fetch)
        # A half-filled environment is worth nothing: both or neither.
        if "dependencies" not in self.release.done and "venv" in self.release.done:
            self.release.done.remove("venv")
        self.step("venv", self.make_venv)
        self.step("dependencies", self.install)
        if self.spec.commands_build:
            self.step("build", self.build_commands)
        # The history is for build commands that ask git for a version; what serves does not need it.
        files.delete(self.src / ".git")
        self.step("check", self.check)
        files.delete(self.scratch)

    def step(self, name: str, work: Callable[[Step], None]) -> None:
        if name in self.release.done:
            return
        with self.journal.step(name) as step:
            step.changed = True
            work(step)
            self.release.done.append(name)
            self.release.save(self.layout)

    def own(self, folder: Path) -> None:
        """A fresh folder of the app's user."""
        files.delete(folder)
        folder.mkdir()
        os.chown(folder, self.account.uid, self.account.gid)

    def fetch(self, step: Step) -> None:
        source.fetch(self.spec, self.layout, self.view.source, self.src, self.account, self.journal.say)
        lock = self.lock()
        if not self.spec.override_gunicorn:
            lockfile.refuse_gunicorn(self.pinned_gunicorn(lock), lock)
        self.share()
        step.detail = self.view.source[:60]

    def lock(self) -> Lock:
        return lockfile.find(self.spec, self.src, self.python)

    def pinned_gunicorn(self, lock: Lock) -> str | None:
        """Read from the lock's text, before any tool for it is installed."""
        if lock.kind in ("uv.lock", "poetry.lock"):
            text = lock.path.read_text(encoding="utf-8")
            part = text.partition('\nname = "gunicorn"')[2].partition("[[package]]")[0]
            return part.partition('version = "')[2].partition('"')[0] or None
        if lock.kind == "requirements.txt":
            return lockfile.pinned(list(lockfile.flatten(lock.path)), "gunicorn")
        return None

    def share(self) -> None:
        """Links each shared path of the source into ``shared/``, seeded from the source the first time."""
        for name in self.spec.shared:
            kept, here = self.layout.shared / name, self.src / name
            if not kept.exists():
                _as(self.account, "mkdir", "-p", str(kept.parent))
                seed = ["cp", "-R", str(here), str(kept)] if here.exists() else ["mkdir", str(kept)]
                _as(self.account, *seed)
            _as(self.account, "rm", "-rf", str(here))
            _as(self.account, "mkdir", "-p", str(here.parent))
            _as(self.account, "ln", "-s", str(kept), str(here))

    def installer(self) -> Installer:
        name = self.release.installer or self.choose_installer()
        self.release.installer = name
        cache = VAR / "cache" / self.spec.name
        if not cache.exists():
            cache.mkdir(parents=True)
            os.chown(cache, self.account.uid, self.account.gid)
        # The installer's lock files in it are for everybody to write.
        cache.chmod(0o700)
        return Installer(
            name, self.venv, self.scratch, cache, self.account, self.spec.installer_env, self.journal.say,
            self.spec.name,
        )  # fmt: skip

    def choose_installer(self) -> str:
        """uv on every size of host (docs/decisions/0001-installer.md), pip where uv cannot be had."""
        if self.spec.installer != "auto":
            return self.spec.installer
        try:
            install.ensure_uv(self.python, self.spec.installer_env, self.journal.say, self.spec.name)
        except FarrierError as error:
            self.journal.say(f"pip it is: {error}")
            return "pip"
        return "uv"

    def make_venv(self, step: Step) -> None:
        installer = self.installer()
        if installer.name == "uv" and not install.has_uv():
            install.ensure_uv(self.python, self.spec.installer_env, self.journal.say, self.spec.name)
        installer.make(self.python)
        self.release.python = self.python.version
        step.detail = f"Python {self.python.version}, {installer.name}"

    def install(self, step: Step) -> None:
        lock = self.lock()
        lines = install.locked_lines(lock, self.python, self.spec, self.journal.say)
        if not self.spec.override_gunicorn:
            lockfile.refuse_gunicorn(lockfile.pinned(lines, "gunicorn"), lock)
        named = self.spec.source.requirement or ""
        found = lockfile.frameworks([*lines, *self.spec.extra_requirements, named])
        if found and "framework" not in self.spec.workload:
            self.release.measured["framework"] = found
        now = self.class_now()
        server = now if now in install.SERVERS else self.view.wanted_server
        installer = self.installer()
        install.fill(installer, self.spec, self.layout, lock, lines, self.view.runtime, server)
        installer.compile()
        if lock.installs_project:
            self.release.measured["installed_project"] = True
        self.release.gunicorn = install.farrier_versions(self.venv)
        self.release.measured["disk_bytes"] = files.tree_bytes([self.venv, self.src])
        step.detail = f"{lock.label}, gunicorn {self.release.gunicorn}"

    def class_now(self) -> str:
        """The short worker class that the plan would take as things are known now."""
        from .sized import workload_for

        return workload_for(self.spec, self.release.measured).worker_class

    def paths(self) -> list[str]:
        """What of the source goes on PYTHONPATH: what the spec names, and ``src`` of a src layout."""
        paths = list(self.spec.pythonpath)
        top = self.spec.app.split(":")[0].split(".")[0]
        base = f"{self.spec.chdir}/src" if self.spec.chdir else "src"
        in_src = (self.src / base / top).is_dir() or (self.src / base / f"{top}.py").is_file()
        if in_src and base not in paths:
            paths.append(base)
        return paths

    def command_env(self) -> dict[str, str]:
        """What the app's own commands see: the app's environment, under this release's own paths."""
        given = self.view.given_env(self.src)
        python_path = [str(self.src / path) for path in self.paths()]
        if given.get("PYTHONPATH"):
            python_path.append(given["PYTHONPATH"])
        self.journal.hide(given.values())
        # So that what a command says last is what it did last.
        env = {"PYTHONUNBUFFERED": "1", **given}
        env |= {"HOME": str(self.scratch), "TMPDIR": str(self.scratch), "VIRTUAL_ENV": str(self.venv)}
        if python_path:
            env["PYTHONPATH"] = ":".join(python_path)
        return command.base_env(env, self.venv / "bin")

    @property
    def workdir(self) -> Path:
        return self.src / self.spec.chdir

    def build_commands(self, step: Step) -> None:
        env = {**self.spec.installer_env, **self.command_env()}
        for line in self.spec.commands_build:
            self.shell(line, env, "commands.build")
        step.detail = f"{len(self.spec.commands_build)} commands"

    def migrate(self, step: Step) -> None:
        self.scratch.mkdir(exist_ok=True)
        os.chown(self.scratch, self.account.uid, self.account.gid)
        for line in self.spec.commands_migrate:
            self.shell(line, self.command_env(), "commands.migrate")
        files.delete(self.scratch)
        step.detail = f"{len(self.spec.commands_migrate)} commands"

    def shell(self, line: str, env: Mapping[str, str], key: str) -> None:
        self.journal.say(line[:200])
        room.run(
            ["/bin/sh", "-c", line], self.account, self.spec.name, env=env, cwd=self.workdir,
            timeout=COMMAND_TIMEOUT, on_line=self.journal.say, what=f"{key}: {line[:80]}", own_words=True,
        )  # fmt: skip

    def check(self, step: Step) -> None:
        """Imports the app in a throw-away process: a module that does not import is one clear line."""
        if not self.workdir.is_dir():
            raise FarrierError(f"chdir: given {self.spec.chdir}, which the source does not have")
        limit = IMPORT_FACTOR * float(self.spec.start_timeout or units.START_LEAST)
        hang = self.scratch / "hang"
        argv = [str(self.venv / "bin" / "python"), "-c", IMPORT_CHECK, self.spec.app, str(limit), str(hang)]
        env = {**self.command_env(), "PYTHONDONTWRITEBYTECODE": "1", "FARRIER_APP": self.spec.name}
        began, memory = time.monotonic(), room.free() - room.SPARE
        try:
            text = room.trial(
                argv, self.account, memory, self.spec.name, env=env, cwd=self.workdir,
                timeout=limit + HANG_SLACK, what=f"app: {self.spec.app}", own_words=True,
            )  # fmt: skip
        except FarrierError as error:
            if room.killed(str(error)):
                self.assume(step, memory)
                return
            if place := hangs_at(hang, self.src):
                raise FarrierError(
                    f"app: {self.spec.app} does not import: still busy after {limit:.0f} s {place}", 1
                ) from None
            raise
        answer = _last_json(text)
        if "error" in answer:
            raise FarrierError(f"app: {self.spec.app} does not import: {answer['error']}", 1)
        self.release.measured.update(paths=self.paths(), app_memory=answer.get("app_memory", 0))
        self.release.measured["boot_seconds"] = answer.get("boot_seconds", round(time.monotonic() - began, 3))
        self.match_interface(str(answer.get("interface", "")))
        step.detail = (
            f"{answer.get('app_memory', 0) >> 20} MiB, {self.release.measured['boot_seconds']:.1f} s"
        )

    def assume(self, step: Step, memory: int) -> None:
        """Where an app has no room beside itself by its plan, its serving release says what it takes.

        Raises FarrierError where there is room by the plan: then it is this release that takes too much.
        """
        serving = Release.load(self.layout, self.view.state.release or "")
        measured = serving.measured if serving else {}
        plan = sized.plan_for(self.spec, self.layout, measured, self.view.given_env(self.src))
        beside = plan.value("strategy") != "queue" or ("gate_beside" in plan and plan.value("gate_beside"))
        if serving is None or beside:
            raise room.too_large(self.spec.app, memory)
        known = ("app_memory", "boot_seconds", "interface", "worker_class")
        self.release.measured.update({key: measured[key] for key in known if key in measured})
        self.release.measured["paths"] = self.paths()
        step.detail = "not imported: no room for the app beside the one that serves"

    def match_interface(self, interface: str) -> None:
        """A WSGI app under an ASGI worker, or the other way round, would answer 500 to everyone."""
        from .sized import workload_for

        self.release.measured["interface"] = interface
        self.view.refuse_interface(interface)
        if not interface or interface == workload_for(self.spec, self.release.measured).interface:
            return
        # Nobody chose: gunicorn's own class for the interface.
        self.release.measured["worker_class"] = "asgi" if interface == "asgi" else "gthread"


def hangs_at(dump: Path, src: Path) -> str:
    """``at main.py, line 3, in connect`` from faulthandler's dump: the app's own innermost line, else any."""
    try:
        text = dump.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    frames = re.findall(r'^  File "(.+)", line (\d+) in (.+)$', text, re.MULTILINE)
    own = [frame for frame in frames if Path(frame[0]).is_relative_to(src)]
    if not frames:
        return ""
    name, line, function = (own or frames)[0]
    where = str(Path(name).relative_to(src)) if own else name
    return f"at {where}, line {line}" + ("" if function == "<module>" else f", in {function}")


def seal(release: Path, account: Account) -> None:
    """Only root and the app's group may look into a release: its source may hold a ``.env``."""
    os.chown(release, 0, account.gid)
    release.chmod(0o750)


def _last_json(text: str) -> dict[str, Any]:
    """The answer is the last thing printed; an app may print before it."""
    start = text.rfind('{"')
    try:
        data = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        data = {}
    return (
        data
        if isinstance(data, dict) and data
        else {"error": text.strip().splitlines()[-1][:300] if text.strip() else "it ended without a word"}
    )


def _as(account: Account, *argv: str) -> None:
    """Runs one of the system's own tools as the app's user: links in its folders cannot lead us astray."""
    command.run(
        [shutil.which(argv[0], path=command.PATH) or argv[0], *argv[1:]], account=account, what="shared"
    )
