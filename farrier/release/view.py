"""The wanted state against what is on the host: read only, so that check mode, the fast path of an
unchanged app and the run itself all decide by the same code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FarrierError
from . import account, envfile, install, older, python, runtime, sized, source, systemd, units
from . import state as states
from .layout import Layout
from .python import Python
from .runtime import Runtime
from .spec import Spec
from .state import Release, State
from .units import Unit

if TYPE_CHECKING:
    from ..sizing.plan import Plan

# What the run has to do, from nothing to everything; each includes what a smaller one does.
ACTIONS = ("nothing", "live", "reload", "restart", "socket", "deploy")
# Keys of the spec that a release was built or checked with: with another value it is another release.
_BUILT_WITH = (
    "app",
    "requirements",
    "extra_requirements",
    "installer",
    "override_gunicorn",
    "pythonpath",
    "chdir",
    "shared",
)


@dataclass
class View:
    """One look at one app."""

    spec: Spec
    layout: Layout
    state: State
    runtime: Runtime
    python: Python | None
    source: str
    release: Release | None = None
    """A release on disk that was built from exactly this; None: one has to be built."""
    missing: list[str] = field(default_factory=list)
    """In check mode: what is not there yet and an earlier task would have brought."""
    anew: bool = False
    """The plan is made anew, whatever the one in force is."""
    gives_way: bool = False
    """To another app that does not fit otherwise: the plan is made of this app's part by weight."""
    claimed: sized.Fitted | None = None
    """The plan that this run has claimed the memory for; it goes on with that one."""

    @cached_property
    def identity(self) -> str:
        """Digest of all that a release is made of."""
        spec = self.spec.to_dict()
        parts = {key: spec.get(key) for key in _BUILT_WITH}
        parts |= {"source": self.source, "python": self.python.identity if self.python else ""}
        parts |= {"runtime": self.runtime.version, "build": list(self.spec.commands_build)}
        parts |= {"user": self.spec.user, "migrate": list(self.spec.commands_migrate)}
        parts["server"] = self.wanted_server
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def wanted_server(self) -> str | None:
        """The package that the worker class needs which is chosen, or which the framework suggests."""
        name = sized.workload_for(self.spec, {}).worker_class
        return name if name in install.SERVERS else None

    @property
    def measured(self) -> dict[str, Any]:
        return self.release.measured if self.release else {}

    def given_env(self, src: Path) -> dict[str, str]:
        """env above env_files; files of the source are read from `src`."""
        out: dict[str, str] = {}
        for name in self.spec.env_files:
            path = Path(name) if name.startswith("/") else src / name
            try:
                text = path.read_text(encoding="utf-8")
            except OSError:
                if not self.missing and src.exists():
                    raise FarrierError(f"env_files: given {name}, which {path} does not hold") from None
                continue
            out |= envfile.parse_dotenv(text, name)
        return {**out, **self.spec.env}

    def fitted(self, env: Mapping[str, str]) -> sized.Fitted:
        """The plan beside the other apps of this host. Raises SizingError and FarrierError."""
        if self.claimed is not None:
            return self.claimed
        serves = not self.anew and self.release is not None and self.release.id == self.state.release
        return sized.fitted(self.spec, self.layout, self.measured, env, serves, self.gives_way)

    def plan(self, env: Mapping[str, str]) -> Plan:
        return self.fitted(env).plan

    def files(self, colour: str, release: Release | None) -> tuple[list[Unit], Plan, dict[str, str]]:
        """What `colour` needs to serve `release`, the plan behind it, and the environment it gets."""
        src = self.layout.release(release.id) / "src" if release else Path("/nonexistent")
        given = self.given_env(src)
        plan = self.plan(given)
        found = account.find(self.spec)
        paths = list(release.measured.get("paths", [])) if release else list(self.spec.pythonpath)
        release_id = release.id if release else "RELEASE"
        env = units.environment(self.spec, self.layout, colour, plan, release_id, given, paths)
        gid, runtime = found.gid if found else 0, release.runtime if release else ""
        wanted = units.everything(self.spec, self.layout, colour, plan, env, gid, runtime)
        return wanted, plan, env

    def refuse_interface(self, interface: str) -> None:
        """Raises FarrierError if the chosen worker class serves the other interface than the app has."""
        chosen = self.spec.settings.get("worker_class") or self.spec.workload.get("worker_class")
        if not chosen or not interface:
            return
        now = sized.workload_for(self.spec, self.measured)
        if now.interface != interface:
            from ..sizing.workload import ASGI_CLASSES, WSGI_CLASSES

            allowed = ", ".join(ASGI_CLASSES if interface == "asgi" else WSGI_CLASSES)
            raise FarrierError(
                f"settings.worker_class: given {now.worker_class}, but {self.spec.app} is "
                f"{interface.upper()}; allowed: {allowed}"
            )

    def action(self) -> str:
        """The smallest of ACTIONS that brings the host to the spec."""
        if self.release is None or self.state.release != self.release.id or self.state.active is None:
            return "deploy"
        if self.state.run:
            return "deploy"
        needs = {unit.needs for unit in self.differing()}
        if unmeasured(self.spec, self.release):
            needs.add("live")
        if not units.active(self.layout, self.state.active).is_there():
            needs.add("restart")
        if units.socket_moves(self.spec, self.layout):
            needs.add("socket")
        if not needs and not self.is_serving():
            return "restart"
        return max(needs, key=ACTIONS.index, default="nothing")

    def differing(self) -> list[Unit]:
        """The serving colour's files that are not as they are wanted."""
        wanted, _, _ = self.files(str(self.state.active), self.release)
        return [unit for unit in wanted if not unit.is_there()]

    def refuse_more_than_reload(self, action: str) -> None:
        """Raises FarrierError if a reload was chosen and what differs needs more than that."""
        if self.spec.settings.get("strategy") != "reload" or self.state.active is None or self.state.run:
            # What a killed run left is put right first, and then this is asked again.
            return
        if action in ("nothing", "live", "reload") or not self.is_serving():
            return
        raise FarrierError(
            f"settings.strategy: given reload, which does not apply {', '.join(self.more_than_reload())}; "
            "allowed: changes of settings and limits, or another strategy: overlap, rolling, queue"
        )

    def more_than_reload(self) -> list[str]:
        """Keys and files that differ and that a HUP does not bring."""
        if self.release is not None and self.state.release == self.release.id:
            found = [unit.path.name for unit in self.differing() if unit.needs == "restart"]
            return [*found, *(["bind"] if units.socket_moves(self.spec, self.layout) else [])]
        serving = Release.load(self.layout, str(self.state.release))
        if serving is None:
            return ["the release"]
        now, then = self.spec.to_dict(), serving.spec
        keys = [*_BUILT_WITH, "commands", "python", "user"]
        found = [key for key in keys if now.get(key) != then.get(key)]
        found += ["source"] if self.source != serving.source else []
        found += ["the runtime"] if self.runtime.version != serving.runtime else []
        return sorted(found) or ["the release"]

    def is_serving(self) -> bool:
        active = self.state.active
        return (
            active is not None
            and systemd.show(self.layout.service(active), "ActiveState")["ActiveState"]
            in ("active", "reloading")
            and systemd.show(self.layout.socket, "ActiveState")["ActiveState"] == "active"
        )


def unmeasured(spec: Spec, release: Release) -> bool:
    """Whether this release is to be measured and has not been yet, or was asked something else then.

    Once more as well where there was no room. Not under a strategy that only reloads: what comes of it might
    need more than that. Not one whose runtime is older than ``farrier measure``.
    """
    chosen = spec.measure.enabled and spec.settings.get("strategy") != "reload"
    if not chosen or older.reads_less(release.runtime):
        return False
    then = release.measured.get("measured_by", spec.measure.digest)
    again = release.measured.get("measure_again") or then != spec.measure.digest
    return bool(again) or "measure" not in release.done


def look(spec: Spec, layout: Layout, check: bool = False, known: str = "") -> View:
    """Reads everything that decides; `known`: what the source is, where nobody has to be asked.

    Raises FarrierError for what cannot be found out.
    """
    state = State.load(layout)
    missing: list[str] = []
    chosen: Python | None = None
    resolved = ""
    try:
        chosen = python.find(spec.python)
    except FarrierError as error:
        if not check:
            raise
        missing.append(str(error))
    try:
        resolved = known or source.resolve(spec, layout)
    except FarrierError as error:
        if not check or (error.status == 2 and "no git" not in str(error)):
            raise
        missing.append(str(error))
    view = View(spec, layout, state, runtime.find(spec.runtime), chosen, resolved, missing=missing)
    built = [one for one in states.releases(layout) if one.is_built and one.identity == view.identity]
    served_first = sorted(built, key=lambda one: (one.id == state.release, one.id))
    view.release = served_first[-1] if served_first else None
    return view
