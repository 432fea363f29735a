"""The wanted state of one app (schema 1): every key, what it may hold, and what it is when left out.

A spec is plain JSON. :meth:`Spec.from_mapping` checks the whole of it before anything is looked at on
the host, and names every wrong value in a line of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import FarrierError

SCHEMA = 1
STATES = ("present", "absent")
SOURCE_TYPES = ("archive", "git", "requirement")
INSTALLERS = ("auto", "uv", "pip")
KEEP_RELEASES = 3
# An app's part of the memory that it shares with the host's other apps, relative to theirs.
WEIGHT = 100

# A unit name, a user name and a folder at once; 31 is useradd's limit less one.
NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
APP = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*(\.\w+)*(\(.*\))?)?")
READY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_][\w.]*")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
PYTHON_VERSION = re.compile(r"3\.\d{1,2}")
WEBHOOK = re.compile(r"(https?://[^\s/?#]+([/?#]\S*)?)?", re.IGNORECASE)
HOST = re.compile(r"[A-Za-z0-9.-]+")
SECRET_HEADER = re.compile(r"auth|cookie|token|key|secret|password", re.IGNORECASE)
# Kernel: one environment string may hold 128 KiB (MAX_ARG_STRLEN).
ENV_VALUE_LIMIT = 128 * 1024 - 1024


class SpecError(FarrierError):
    """The spec is wrong: one line for each wrong value, and nothing on the host was touched."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Source:
    """Where the code comes from: an uploaded archive, a git ref, or a requirement of a package index."""

    type: str
    path: str | None = None
    sha256: str | None = None
    repo: str | None = None
    ref: str = "HEAD"
    deploy_key: str | None = None
    requirement: str | None = None

    def to_dict(self) -> dict[str, Any]:
        keys = {"archive": ("path", "sha256"), "git": ("repo", "ref", "deploy_key")}
        wanted = keys.get(self.type, ("requirement",))
        return {"type": self.type, **{k: getattr(self, k) for k in wanted if getattr(self, k) is not None}}


@dataclass(frozen=True)
class Bind:
    """Where the app listens. ``kind`` is ``tcp`` or ``unix``; an empty ``host`` means every address."""

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def listen_stream(self) -> str:
        """The value of systemd's ``ListenStream=``."""
        if self.kind == "unix":
            return self.path
        if not self.host:
            return str(self.port)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What a person on the host types to reach it."""
        if self.kind == "unix":
            return f"http+unix://{self.path}"
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return (
            f"http://[{host}]:{self.port}"
            if ":" in host and "[" not in host
            else f"http://{host}:{self.port}"
        )


@dataclass(frozen=True)
class Guard:
    """How long a release is watched after the switch, and what turns it back."""

    seconds: float = 30.0
    """How long; 0: not at all."""
    errors: float = 0.05
    """The share of responses of 500 and above that is too many."""
    latency: float = 3.0
    """How many times the 95th percentile of the release before is too slow."""
    requests: int = 20
    """Fewer responses than this say nothing."""
    restarts: int = 1
    """So many restarts of the service, or crashed workers, are too many."""

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v != getattr(Guard, k)}


@dataclass(frozen=True)
class Measure:
    """Whether a new release is measured before it serves, and how."""

    enabled: bool = True
    requests: tuple[str, ...] = ()
    """What it is asked: a method, a path and perhaps a body each. Empty: nobody named any, so GET /."""
    headers: tuple[str, ...] = ()
    """``NAME: VALUE`` each, sent with every request."""
    seconds: int | None = None
    """So long at most, the boots included. None: nobody said, so 20, and less for an app that boots soon."""

    @property
    def asked(self) -> tuple[str, ...]:
        """The requests that are sent."""
        return self.requests or ("GET /",)

    @property
    def digest(self) -> str:
        """Of all that makes another measurement."""
        parts = [list(self.requests), list(self.headers), self.seconds]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def secrets(self) -> list[str]:
        """Values of headers by which somebody gets in."""
        pairs = [one.partition(":") for one in self.headers]
        return [value.strip() for name, _, value in pairs if SECRET_HEADER.search(name)]

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults."""
        found = {k: v for k, v in dataclasses.asdict(self).items() if v != getattr(Measure, k)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


@dataclass(frozen=True)
class Notify:
    """Who is told how a run went: an address that takes JSON, a command of the app's user."""

    webhook: str = ""
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if v}


@dataclass(frozen=True)
class Spec:
    """One app as it is wanted. Field names are the spec's keys."""

    name: str
    state: str = "present"
    app: str = ""
    user: str = ""
    group: str = ""
    root: str = ""
    bind: str = "127.0.0.1:8000"
    source: Source = field(default_factory=lambda: Source("requirement"))
    requirements: str | None = None
    extra_requirements: tuple[str, ...] = ()
    python: str | None = None
    installer: str = "auto"
    installer_env: Mapping[str, str] = field(default_factory=dict)
    override_gunicorn: bool = False
    pythonpath: tuple[str, ...] = ()
    chdir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    env_files: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    commands_build: tuple[str, ...] = ()
    commands_migrate: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    health_path: str = "/health"
    settings: Mapping[str, Any] = field(default_factory=dict)
    workload: Mapping[str, Any] = field(default_factory=dict)
    config_file: str | None = None
    keep_releases: int = KEEP_RELEASES
    start_timeout: int = 0
    weight: int = WEIGHT
    measure: Measure = field(default_factory=Measure)
    guard: Guard = field(default_factory=Guard)
    notify: Notify = field(default_factory=Notify)
    migrate_here: bool = True
    retry_bad: bool = False
    keep_data: bool = False
    runtime: str | None = None
    who: str = ""
    given: frozenset[str] = frozenset()

    @classmethod
    def from_mapping(cls, data: object) -> Spec:
        """Checks `data` and fills in what is left out. Raises :class:`SpecError` naming every wrong key."""
        if not isinstance(data, Mapping):
            raise SpecError([f"spec: given {_shown(data)}; allowed: a JSON object"])
        return _Reading(data).spec()

    @property
    def listen(self) -> Bind:
        return parse_bind(self.bind)

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON holds it; :meth:`from_mapping` reads it back to an equal spec."""
        out: dict[str, Any] = {"schema": SCHEMA}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name in ("given", "commands_build", "commands_migrate"):
                continue
            if item.name == "source":
                value = value.to_dict() if self.state == "present" else None
            elif isinstance(value, Guard | Measure | Notify):
                value = value.to_dict()
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, Mapping):
                value = dict(value)
            if value is not None:
                out[item.name] = value
        out["commands"] = {"build": list(self.commands_build), "migrate": list(self.commands_migrate)}
        # A default of today must not look like a person's choice tomorrow.
        return {k: v for k, v in out.items() if k in self.given or k in ("schema", "name", "state")}

    def differs(self, known: Mapping[str, Any]) -> list[str]:
        """Keys whose value is another than in `known`, a spec as :meth:`to_dict` gives it.

        What says how one run is to be made, and not how the app is to be, is left out.
        """
        mine = self.to_dict()
        of_the_run = {"who", "runtime", "migrate_here", "retry_bad", "keep_data", "schema"}
        keys = sorted({*mine, *known} - of_the_run)
        return [key for key in keys if mine.get(key) != known.get(key)]


def parse_bind(text: str) -> Bind:
    """``host:port``, ``port`` or a unix socket's path. Raises ``ValueError`` with the reason."""
    if text.startswith(("unix:", "/")):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or re.search(r"[\s%\"']", path) or len(path) > 107:
            raise ValueError("a unix socket needs an absolute path of at most 107 characters, no spaces or %")
        return Bind("unix", path=path)
    host, _, port_text = text.rpartition(":")
    if not port_text.isdigit() or not 1 <= int(port_text) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    host = host.removeprefix("[").removesuffix("]")
    if host in ("*", ""):
        return Bind("tcp", "", int(port_text))
    host = "127.0.0.1" if host == "localhost" else host
    try:
        return Bind("tcp", str(ipaddress.ip_address(host)), int(port_text))
    except ValueError:
        raise ValueError(f"{host} is no address of this machine (an IP address or localhost)") from None


def _shown(value: object) -> str:
    """A given value, short enough for one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


KEYS = (
    "schema",
    "name",
    "state",
    "app",
    "user",
    "group",
    "root",
    "bind",
    "source",
    "requirements",
    "extra_requirements",
    "python",
    "installer",
    "installer_env",
    "override_gunicorn",
    "pythonpath",
    "chdir",
    "env",
    "env_files",
    "shared",
    "commands",
    "ready",
    "health_path",
    "settings",
    "workload",
    "config_file",
    "keep_releases",
    "start_timeout",
    "weight",
    "measure",
    "guard",
    "notify",
    "migrate_here",
    "retry_bad",
    "keep_data",
    "runtime",
    "who",
)
# What each key of guard may be: a whole number or not, least, most.
_GUARD = {
    "seconds": (float, 0, 3600),
    "errors": (float, 0, 1),
    "latency": (float, 1, 1000),
    "requests": (int, 1, 1_000_000),
    "restarts": (int, 1, 1000),
}


class _Reading:
    """One pass over a given mapping, collecting every problem before it gives up."""

    def __init__(self, data: Mapping[Any, Any]) -> None:
        # null is how Ansible says "left out".
        self.data = {str(k): v for k, v in data.items() if v is not None}
        self.problems: list[str] = []

    def wrong(self, key: str, allowed: str, value: object = ...) -> None:
        given = self.data.get(key) if value is ... else value
        # An environment value may be a secret: never repeat it.
        secret = ("env.", "installer_env.", "notify.webhook", "measure.headers")
        shown = "a value" if key.startswith(secret) else _shown(given)
        self.problems.append(f"{key}: given {shown}; allowed: {allowed}")

    def spec(self) -> Spec:
        for key in self.data:
            if key not in KEYS:
                self.problems.append(f"{key}: no such key; allowed: {', '.join(KEYS)}")
        if self.data.get("schema", SCHEMA) != SCHEMA:
            self.wrong("schema", f"{SCHEMA}")
        name = self.text("name", NAME, "lower-case letters, digits, - and _, a letter first, at most 31")
        if "name" not in self.data:
            self.problems.append("name: missing; allowed: lower-case letters, digits, - and _")
        state = self.choice("state", STATES, "present")
        # Its units and folders would be farrier's own, or look like a deploy of another app.
        if state == "present" and re.fullmatch(r"farrier([-_].*)?", name):
            self.wrong("name", "a name that is not farrier and does not begin with farrier-")
        root = self.folder("root", f"/srv/{name}")
        common: dict[str, Any] = {
            "name": name,
            "state": state,
            "root": root,
            "who": str(self.data.get("who", "")),
        }
        common["keep_data"] = self.flag("keep_data")
        common["runtime"] = (
            self.text("runtime", re.compile(r"/.+\.whl"), "the absolute path of a wheel") or None
        )
        common["user"] = self.text("user", NAME, "a user's name; root serves no app", name)
        if common["user"] == "root":
            self.wrong("user", "any user but root")
        common["group"] = self.text("group", NAME, "a group's name", common["user"])
        values = self.present_keys() if state == "present" else {}
        if self.problems:
            raise SpecError(self.problems)
        return Spec(**common, **values, given=frozenset(self.data))

    def present_keys(self) -> dict[str, Any]:
        if "app" not in self.data:
            self.problems.append(
                "app: missing; allowed: module:callable, such as main:app or main:create_app()"
            )
        commands = self.mapping("commands")
        for key in commands:
            if key not in ("build", "migrate"):
                self.problems.append(f"commands.{key}: no such key; allowed: build, migrate")
        return {
            "app": self.text("app", APP, "module:callable, such as main:app or main:create_app()"),
            "bind": self.bind(),
            "source": self.source(),
            "requirements": self.inside("requirements") or None,
            "extra_requirements": self.strings("extra_requirements", "a list of requirements"),
            "python": self.python(),
            "installer": self.choice("installer", INSTALLERS, "auto"),
            "installer_env": self.environment("installer_env"),
            "override_gunicorn": self.flag("override_gunicorn"),
            "pythonpath": self.insides("pythonpath"),
            "chdir": self.inside("chdir"),
            "env": self.environment("env"),
            "env_files": self.strings("env_files", "a list of files, in the source or absolute"),
            "shared": self.insides("shared"),
            "commands_build": self.strings("commands.build", "a list of commands", commands.get("build")),
            "commands_migrate": self.strings(
                "commands.migrate", "a list of commands", commands.get("migrate")
            ),
            "ready": self.ready(),
            "health_path": self.health_path(),
            "settings": self.settings(),
            "workload": self.workload(),
            "config_file": self.inside("config_file", absolute=True) or None,
            "start_timeout": self.count("start_timeout", 0, 0, 3600),
            "keep_releases": self.count("keep_releases", KEEP_RELEASES, 1, 50),
            "weight": self.count("weight", WEIGHT, 1, 1000),
            "measure": self.measure(),
            "guard": self.guard(),
            "notify": self.notify(),
            "migrate_here": self.flag("migrate_here", True),
            "retry_bad": self.flag("retry_bad"),
        }

    def text(self, key: str, pattern: re.Pattern[str], allowed: str, default: str = "") -> str:
        value = self.data.get(key, default)
        if key in self.data and (not isinstance(value, str) or not pattern.fullmatch(value)):
            self.wrong(key, allowed)
            return default
        return str(value)

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        value = self.data.get(key, default)
        if value not in choices:
            self.wrong(key, ", ".join(choices))
            return default
        return str(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            self.wrong(key, "true or false")
        return value is True

    def count(self, key: str, default: int, least: int, most: int) -> int:
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.wrong(key, f"a whole number from {least} to {most}")
            return default
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.data.get(key, {})
        if not isinstance(value, Mapping):
            self.wrong(key, "an object of names and values")
            return {}
        return {str(k): v for k, v in value.items()}

    def strings(self, key: str, allowed: str, value: object = ...) -> tuple[str, ...]:
        items = self.data.get(key, []) if value is ... else (value or [])
        if not isinstance(items, list | tuple) or not all(isinstance(i, str) and i.strip() for i in items):
            self.wrong(key, allowed, items)
            return ()
        if any("\0" in item for item in items):
            self.wrong(key, f"{allowed}, without NUL", items)
        return tuple(items)

    def folder(self, key: str, default: str) -> str:
        value = self.data.get(key, default)
        shape = isinstance(value, str) and re.fullmatch(r"(/[A-Za-z0-9._@+-]+){2,}/?", value)
        if key in self.data and (not shape or ".." in str(value).split("/")):
            self.wrong(key, "an absolute path at least two folders deep, of letters, digits and . _ @ + -")
            return default
        return str(value).rstrip("/")

    def inside(self, key: str, absolute: bool = False) -> str:
        value = self.data.get(key, "")
        if key in self.data and not _is_inside(value, absolute):
            self.wrong(
                key, "a path inside the source, without .." + (", or an absolute one" if absolute else "")
            )
            return ""
        return str(value).strip("/") if not absolute else str(value)

    def insides(self, key: str) -> tuple[str, ...]:
        items = self.strings(key, "a list of paths inside the source")
        for item in items:
            if not _is_inside(item, absolute=False):
                self.wrong(key, "paths inside the source, without ..", item)
        return tuple(item.strip("/") for item in items)

    def parts(self, key: str, allowed: Sequence[str]) -> dict[str, Any]:
        """An object whose keys are known; what is null is left out."""
        found = {name: value for name, value in self.mapping(key).items() if value is not None}
        for name in [name for name in found if name not in allowed]:
            self.problems.append(f"{key}.{name}: no such key; allowed: {', '.join(allowed)}")
            del found[name]
        return found

    def guard(self) -> Guard:
        found = self.parts("guard", tuple(_GUARD))
        for name in list(found):
            kind, least, most = _GUARD[name]
            value = found[name]
            number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
            if number and least <= value <= most:
                found[name] = kind(value)
                continue
            words = "whole number" if kind is int else "number"
            self.wrong(f"guard.{name}", f"a {words} from {least} to {most}", found.pop(name))
        return Guard(**found)

    def measure(self) -> Measure:
        from ..measure.asking import Request, parse_header

        found = self.parts("measure", ("enabled", "requests", "headers", "seconds"))
        if not isinstance(found.get("enabled", True), bool):
            self.wrong("measure.enabled", "true or false", found.pop("enabled"))
        seconds = found.get("seconds", 20)
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 2 <= seconds <= 600:
            self.wrong("measure.seconds", "a whole number from 2 to 600", found.pop("seconds"))
        forms: tuple[tuple[str, Callable[[str], object], str], ...] = (
            ("requests", Request.parse, 'requests: METHOD /PATH [BODY], such as "GET /"'),
            ("headers", parse_header, 'NAME: VALUE, such as "Host: shop.example"'),
        )
        for name, parse, form in forms:
            given = found.pop(name, [])
            if not isinstance(given, list | tuple):
                self.wrong(f"measure.{name}", f"a list of {form}", given)
                continue
            for one in given:
                if not _is_of(parse, one):
                    self.wrong(f"measure.{name}", f"a list of {form}", one)
            found[name] = tuple(given)
        return Measure(**found)

    def notify(self) -> Notify:
        found = self.parts("notify", ("webhook", "command"))
        # Its address is a secret: whoever has it can write there.
        if "webhook" in found and not WEBHOOK.fullmatch(str(found["webhook"])):
            self.wrong("notify.webhook", "an http or https address", "a value")
        if "command" in found and not (isinstance(found["command"], str) and "\0" not in found["command"]):
            self.wrong("notify.command", "a command for /bin/sh", found.pop("command"))
        return Notify(**{name: str(value) for name, value in found.items()})

    def bind(self) -> str:
        value = self.data.get("bind", "127.0.0.1:8000")
        text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        try:
            parse_bind(text)
        except ValueError as error:
            self.wrong("bind", f"host:port, a port or a unix socket's path ({error})")
        return text

    def source(self) -> Source:
        data = self.mapping("source")
        kind = data.get("type")
        if kind not in SOURCE_TYPES:
            self.wrong("source.type", ", ".join(SOURCE_TYPES), kind)
            return Source("requirement")
        needs = {"archive": ("path", "sha256"), "git": ("repo",), "requirement": ("requirement",)}[str(kind)]
        optional = ("ref", "deploy_key") if kind == "git" else ()
        for key in needs:
            if not isinstance(data.get(key), str) or not data[key].strip():
                self.wrong(f"source.{key}", f"text; a source of type {kind} needs it", data.get(key))
        for key, value in data.items():
            if key not in ("type", *needs, *optional):
                self.problems.append(f"source.{key}: no such key; allowed: {', '.join((*needs, *optional))}")
            elif value is not None and not isinstance(value, str):
                self.wrong(f"source.{key}", "text", value if key != "deploy_key" else "...")
        texts = {k: v for k, v in data.items() if k in (*needs, *optional) and isinstance(v, str) and v}
        self.source_values(texts)
        return Source(str(kind), **texts)

    def source_values(self, texts: dict[str, str]) -> None:
        if "sha256" in texts and not SHA256.fullmatch(texts["sha256"]):
            self.wrong("source.sha256", "64 hexadecimal digits, lower-case", texts["sha256"])
        if "path" in texts and not texts["path"].startswith("/"):
            self.wrong("source.path", "the absolute path of a .tar.gz on the host", texts["path"])
        # A leading dash would be read as an option by git.
        for key in ("repo", "ref"):
            if key in texts and (texts[key].startswith("-") or re.search(r"[\s\0]", texts[key])):
                self.wrong(f"source.{key}", "a git address or ref, no spaces, no leading -", texts[key])
        key_text = texts.get("deploy_key", "/")
        if not key_text.startswith(("/", "-----BEGIN ")):
            self.wrong("source.deploy_key", "a private key's text, or its absolute path on the host", "...")
        if texts.get("requirement", "x").lstrip().startswith("-"):
            self.wrong(
                "source.requirement", "a requirement such as name==1.2 (no options)", texts["requirement"]
            )

    def python(self) -> str | None:
        value = self.data.get("python")
        if value is None:
            return None
        text = str(value) if isinstance(value, str | float) else ""
        if not (PYTHON_VERSION.fullmatch(text) or re.fullmatch(r"/[^\s\"'%]+", text)):
            self.wrong("python", 'a version such as "3.11", or the absolute path of an interpreter')
        return text

    def environment(self, key: str) -> dict[str, str]:
        out: dict[str, str] = {}
        for name, value in self.mapping(key).items():
            if not ENV_NAME.fullmatch(name):
                self.problems.append(f"{key}.{name}: no environment name; allowed: letters, digits and _")
                continue
            if isinstance(value, bool):
                value = "true" if value else "false"
            text = str(value) if isinstance(value, str | int | float) else None
            problem = "text or a number" if text is None else env_value_problem(text)
            if text is None or problem:
                self.wrong(f"{key}.{name}", problem or "", value)
            else:
                out[name] = text
        return out

    def ready(self) -> tuple[str, ...]:
        value = self.data.get("ready", [])
        items = [i.strip() for i in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(
            isinstance(i, str) and READY.fullmatch(i) for i in items
        ):
            self.wrong("ready", "module:function, or a list of them")
            return ()
        return tuple(items)

    def health_path(self) -> str:
        value = self.data.get("health_path", "/health")
        if not isinstance(value, str) or not re.fullmatch(r"(/[\w.~/-]*)?", value):
            self.wrong("health_path", "a path such as /health, or empty for none")
            return "/health"
        return value.rstrip("/") if value != "/" else value

    def settings(self) -> dict[str, Any]:
        from ..sizing.settings import Settings
        from ..sizing.units import SizingError

        given = self.mapping("settings")
        # One at a time, so that every wrong setting is named and not only the first.
        for name, value in given.items():
            try:
                Settings.from_mapping({name: value}, "settings.json")
            except SizingError as error:
                self.problems.append(f"settings.{name}: {error}")
        return given

    def workload(self) -> dict[str, Any]:
        from ..sizing.units import SizingError
        from .sized import workload_of

        given = self.mapping("workload")
        try:
            workload_of(given)
        except (SizingError, TypeError) as error:
            self.problems.append(f"workload: {error}")
        return given


def _is_of(parse: Callable[[str], object], text: object) -> bool:
    """Whether ``farrier measure`` takes it; a NUL goes on no command line."""
    try:
        return isinstance(text, str) and "\0" not in text and parse(text) is not None
    except FarrierError:
        return False


def env_value_problem(text: str) -> str | None:
    """Why systemd would not carry `text` as an environment value, or None."""
    if any((ord(char) < 32 and char not in "\t\n") or ord(char) == 127 for char in text):
        return "text without control characters (tab and newline are fine)"
    if len(text.encode("utf-8", "surrogatepass")) > ENV_VALUE_LIMIT:
        return "at most 127 KiB; put more into a file"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "valid UTF-8 text"
    return None


def _is_inside(value: object, absolute: bool) -> bool:
    if not isinstance(value, str) or not value or re.search(r"[\0\n\"'%\\:$]", value):
        return False
    if value.startswith("/"):
        return absolute
    return ".." not in value.split("/")
