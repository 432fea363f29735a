"""Where one app lives on the host: every path and unit name, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

COLOURS = ("blue", "green")
ETC = Path("/etc/farrier")
VAR = Path("/var/lib/farrier")
UPLOADS = VAR / "uploads"
RUN = Path("/run/farrier")
UNITS = Path("/etc/systemd/system")
# What holds for one run only: a reboot takes it away, and with it the candidate.
PASSING_UNITS = Path("/run/systemd/system")
RUNTIME = Path("/usr/local/lib/farrier")
LAUNCHER = Path("/usr/local/bin/farrier")
# systemd puts every farrier-NAME.slice into it, because of the dash.
APPS_SLICE = "farrier.slice"
# In an app's folder under ETC: the plan that a deploy under way is about to serve with.
CLAIM = "claim.json"
# Under VAR: held while a run plans beside the other apps and claims what came of it.
PLANS_LOCK = "plans.lock"
# The first line of every unit that we write; a unit without it is somebody else's.
MARK = "# Written by farrier for the app {name}; change the app's spec instead of this file."


def other(colour: str) -> str:
    """The colour that `colour` is exchanged with."""
    return COLOURS[1 - COLOURS.index(colour)]


@dataclass(frozen=True)
class Layout:
    """The paths and unit names of one app."""

    name: str
    root: Path

    @property
    def etc(self) -> Path:
        return ETC / self.name

    @property
    def app_json(self) -> Path:
        return self.etc / "app.json"

    @property
    def wanted_json(self) -> Path:
        """The spec of the run under way; it becomes app.json when the run succeeds."""
        return self.etc / "wanted.json"

    @property
    def known_hosts(self) -> Path:
        return self.etc / "known_hosts"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def shared(self) -> Path:
        return self.root / "shared"

    @property
    def state_json(self) -> Path:
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def undo(self) -> Path:
        return self.root / "undo"

    @property
    def current(self) -> Path:
        return self.root / "current"

    @property
    def run_dir(self) -> Path:
        return RUN / self.name

    @property
    def mark(self) -> str:
        return MARK.format(name=self.name)

    @property
    def slice(self) -> str:
        # A dash in a slice's name means nesting.
        return f"farrier-{self.name.replace('-', '_')}.slice"

    @property
    def socket(self) -> str:
        return f"{self.name}.socket"

    @property
    def template(self) -> str:
        return f"{self.name}@.service"

    @property
    def deploy_unit(self) -> str:
        return f"farrier-deploy-{self.name}.service"

    @property
    def active_drop_in(self) -> Path:
        """The one file that says which colour takes the connections, at boot and after a crash too."""
        return UNITS / f"{self.socket}.d" / "active.conf"

    @property
    def passing_drop_in(self) -> Path:
        """Says the same, above it, while one colour takes the other's place; gone with a reboot."""
        return PASSING_UNITS / f"{self.socket}.d" / "passing.conf"

    def release(self, release_id: str) -> Path:
        return self.releases / release_id

    def link(self, colour: str) -> Path:
        return self.root / colour

    def service(self, colour: str) -> str:
        return f"{self.name}@{colour}.service"

    def drop_ins(self, colour: str) -> Path:
        return UNITS / f"{self.service(colour)}.d"

    def candidate_drop_in(self, colour: str) -> Path:
        """There while the colour may run beside the one that serves; gone with a reboot."""
        return PASSING_UNITS / f"{self.service(colour)}.d" / "90-candidate.conf"

    def colour_dir(self, colour: str) -> Path:
        """What one colour reads: its environment, its plan, its settings."""
        return self.etc / colour

    def unit_paths(self) -> list[Path]:
        """Every unit file and drop-in folder that we may have written."""
        names = [self.socket, f"{self.socket}.d", self.template, self.slice]
        names += [f"{self.service(colour)}.d" for colour in COLOURS]
        passing = [PASSING_UNITS / f"{self.service(colour)}.d" for colour in COLOURS]
        passing.append(self.passing_drop_in.parent)
        return [*(UNITS / name for name in names), *passing]
