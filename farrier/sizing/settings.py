"""Only what a person chose, where it came from, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from . import constants
from .units import SizingError, parse_bytes, parse_cpus
from .workload import normalise_worker_class

RUNTIMES = ("systemd", "docker", "cloudrun", "kubernetes", "none")
ENVIRONMENTS = ("production", "development")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")

Value = str | int | float | bool | None
"""What a setting may hold; all of it is JSON."""


@dataclass(frozen=True)
class Setting:
    """One choice: its name, its value in the plan's own unit, and where the person made it."""

    name: str
    value: Value
    source: str


def _whole(least: int) -> Callable[[str, object], int]:
    def parse(name: str, given: object) -> int:
        error = SizingError(f"{name} must be a whole number of at least {least}")
        try:
            number = int(str(given).strip())
        except ValueError:
            raise error from None
        if isinstance(given, bool) or number < least:
            raise error
        return number

    return parse


def _flag(name: str, given: object) -> bool:
    if isinstance(given, bool):
        return given
    text = str(given).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise SizingError(f"{name} must be true or false (allowed: {', '.join(_TRUE + _FALSE)})")


def _choice(allowed: tuple[str, ...]) -> Callable[[str, object], str]:
    def parse(name: str, given: object) -> str:
        text = str(given).strip().lower()
        if text not in allowed:
            raise SizingError(f"{name} must be one of {', '.join(allowed)}")
        return text

    return parse


def _size(least: int) -> Callable[[str, object], int]:
    def parse(name: str, given: object) -> int:
        try:
            size = parse_bytes(given)  # type: ignore[arg-type]
        except SizingError:
            raise SizingError(f"{name} must be a size, such as 512MiB") from None
        if size < least:
            raise SizingError(f"{name} must be a size of at least {least} bytes")
        return size

    return parse


def _cpus(name: str, given: object) -> float:
    try:
        return parse_cpus(given)  # type: ignore[arg-type]
    except SizingError:
        raise SizingError(f"{name} must be a number of CPUs above 0, such as 0.5") from None


def _worker_class(name: str, given: object) -> str:
    return normalise_worker_class(given)


def _text(name: str, given: object) -> str:
    text = str(given).strip()
    if not text:
        raise SizingError(f"{name} must not be empty")
    return text


def _bind(name: str, given: object) -> str:
    if isinstance(given, (list, tuple)):
        return ",".join(_text(name, one) for one in given)
    return _text(name, given)


PARSERS: dict[str, Callable[[str, object], Value]] = {
    # Gunicorn's own
    "workers": _whole(1),
    "threads": _whole(1),
    "worker_class": _worker_class,
    "worker_connections": _whole(1),
    "timeout": _whole(0),
    "graceful_timeout": _whole(1),
    "keepalive": _whole(0),
    "max_requests": _whole(0),
    "max_requests_jitter": _whole(0),
    "preload_app": _flag,
    "worker_tmp_dir": _text,
    "backlog": _whole(1),
    "loglevel": _choice(LOG_LEVELS),
    "reload": _flag,
    "bind": _bind,
    # Farrier's fields
    "low_memory_mode": _flag,
    "freeze_heap": _flag,
    "malloc_arena_max": _whole(1),
    "malloc_trim_threshold": _size(0),
    "db_pool_size": _whole(1),
    "db_max_overflow": _whole(0),
    "db_conn_max_age": _whole(0),
    "db_conn_health_checks": _flag,
    "memory_max": _size(1),
    "memory_high": _size(1),
    "stop_timeout": _whole(1),
    "cloud_run_concurrency": _whole(1),
    "strategy": _choice((*constants.STRATEGIES, constants.RELOAD)),
    # inputs that are no fields
    "environment": _choice(ENVIRONMENTS),
    "runtime": _choice(RUNTIMES),
    "reserve_memory": _size(0),
    "database_memory": _size(0),
    "database_max_connections": _whole(1),
    "database_reserved_connections": _whole(0),
    "proxy_keepalive": _whole(0),
    "one_off_memory": _size(0),
    "memory_limit": _size(1),
    "cpu_limit": _cpus,
    "uses_database": _flag,
    "shm_memory": _size(0),
}
"""Every name a person may set, with what reads it."""

COMPUTED = {
    "memory_peak": "set memory_limit",
    "memory_deploy_peak": "set memory_limit or strategy",
    "candidate_memory_max": "set memory_max",
    "queue_seconds": "measure the app's boot_seconds",
    "recycling": "set memory_limit or workers",
    "gate_beside": "set memory_limit or workers",
}
"""Fields that only the plan computes, and what to set instead."""

ENVIRONMENT_NAMES = {
    "WORKERS": "workers",
    "WORKER_CLASS": "worker_class",
    "THREADS": "threads",
    "WORKER_TIMEOUT": "timeout",
    "GRACEFUL_TIMEOUT": "graceful_timeout",
    "KEEPALIVE": "keepalive",
    "MAX_REQUESTS": "max_requests",
    "MAX_REQUESTS_JITTER": "max_requests_jitter",
    "PRELOAD_APP": "preload_app",
    "BIND": "bind",
    "PORT": "bind",
    "LOG_LEVEL": "loglevel",
}
"""Variables that work as they are and with the prefix GUNICORN_ (which loses against the bare name)."""

ENVIRONMENT_ONLY = {"LOW_MEMORY_MODE": "low_memory_mode", "ENVIRONMENT": "environment"}
RUNTIME_MARKS = {"K_SERVICE": "cloudrun", "KUBERNETES_SERVICE_HOST": "kubernetes"}
"""Variables by which Cloud Run and Kubernetes say that they run this: their stop timeouts bind the plan."""


class Settings(Mapping[str, Setting]):
    """What a person chose, by name. Immutable; later layers go under earlier ones by merged()."""

    def __init__(self, settings: Mapping[str, Setting] | None = None) -> None:
        self._settings = dict(settings or {})

    def __getitem__(self, name: str) -> Setting:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __repr__(self) -> str:
        return f"Settings({self._settings!r})"

    def value(self, name: str, default: Value = None) -> Value:
        """The value chosen for ``name``, or ``default``."""
        setting = self._settings.get(name)
        return default if setting is None else setting.value

    @classmethod
    def from_mapping(cls, given: Mapping[str, object], source: str) -> Settings:
        """Settings from a file, the command line or a role's variables; None means not set.

        Raises SizingError that names ``source``, what was given and what is allowed.
        """
        return cls({name: parse(name, value, source) for name, value in given.items() if value is not None})

    @classmethod
    def from_environ(cls, env: Mapping[str, str]) -> Settings:
        """Settings from WORKERS-style names, then GUNICORN_-prefixed ones, then WEB_CONCURRENCY.

        An empty variable is not set. Raises SizingError that names the variable.
        """
        found: dict[str, Setting] = {}
        for variable, name in _environment_order():
            given = env.get(variable, "").strip()
            if not given or name in found or (variable == "LOW_MEMORY_MODE" and given.lower() == "auto"):
                continue
            if variable.endswith("PORT"):
                given = f"0.0.0.0:{_port(variable, given)}"
            found[name] = parse(name, given, variable)
        for variable, runtime in RUNTIME_MARKS.items():
            if env.get(variable) and "runtime" not in found:
                found["runtime"] = Setting("runtime", runtime, variable)
        return cls(found)

    @classmethod
    def merged(cls, *layers: Settings) -> Settings:
        """One Settings of several, the highest first."""
        found: dict[str, Setting] = {}
        for layer in layers:
            for name, setting in layer.items():
                found.setdefault(name, setting)
        return cls(found)

    def to_dict(self) -> dict[str, dict[str, Value]]:
        """JSON-ready: {name: {value, source}}."""
        return {name: {"value": one.value, "source": one.source} for name, one in self._settings.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, object]]) -> Settings:
        """The inverse of to_dict(); settings of a newer version are passed over. Raises SizingError."""
        try:
            return cls(
                {
                    name: parse(name, one["value"], str(one["source"]))
                    for name, one in data.items()
                    if name in PARSERS
                }
            )
        except (KeyError, TypeError, AttributeError):
            raise SizingError("not settings: each needs a value and a source") from None


def parse(name: str, given: object, source: str) -> Setting:
    """One validated setting. Raises SizingError that names where it came from."""
    if name not in PARSERS:
        raise SizingError(f"{source}: {_unknown(name)}")
    try:
        return Setting(name, PARSERS[name](name, given), source)
    except SizingError as error:
        raise SizingError(f"{_label(name, source)}={given}: {error}") from None


def _unknown(name: str) -> str:
    if name in COMPUTED:
        return f"{name} is computed by the plan: {COMPUTED[name]} instead"
    near = [
        known for known in PARSERS if name.replace("-", "_").lower().strip("_") in (known, known.rstrip("s"))
    ]
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{name!r} is not a setting: {hint}allowed are {', '.join(sorted(PARSERS))}"


def _label(name: str, source: str) -> str:
    """``WORKERS`` and ``--workers`` say it all; ``settings.json`` needs the name as well."""
    bare = source.removeprefix("GUNICORN_")
    if source == "WEB_CONCURRENCY" or {**ENVIRONMENT_NAMES, **ENVIRONMENT_ONLY}.get(bare) == name:
        return source
    flag = source.startswith("--") and source.strip("-").replace("-", "") == name.replace("_", "")
    return source if flag else f"{source}: {name}"


def _environment_order() -> list[tuple[str, str]]:
    return [
        *ENVIRONMENT_NAMES.items(),
        *ENVIRONMENT_ONLY.items(),
        *((f"GUNICORN_{variable}", name) for variable, name in ENVIRONMENT_NAMES.items()),
        ("WEB_CONCURRENCY", "workers"),
    ]


def _port(variable: str, given: str) -> int:
    if not given.isdigit() or not 0 < int(given) < 65536:
        raise SizingError(f"{variable}={given}: a port must be a whole number from 1 to 65535")
    return int(given)
