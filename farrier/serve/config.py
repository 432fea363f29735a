"""Gunicorn's settings from the plan and from what a person chose, evaluated anew at every HUP.

Highest first:

1. the command line, then ``GUNICORN_CMD_ARGS`` (Gunicorn applies both itself; the plan is told);
2. ``WORKERS``-style variables; 3. the same with ``GUNICORN_``; 4. ``WEB_CONCURRENCY``;
5. ``FARRIER_SETTINGS``, the file of a person's choices;
6. the person's own Gunicorn config file (``FARRIER_CONFIG``, or ``-c`` of ``farrier serve``);
7. the plan: ``FARRIER_PLAN``, as JSON or as the path of a file that holds it; without it, or when the
   machine is no longer the one it was made for, made here from what the machine gives now.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from farrier.errors import FarrierError
from farrier.health.report import health_path
from farrier.serve import hooks
from farrier.serve.board import SLOTS
from farrier.sizing.budget import Budget, read_budget
from farrier.sizing.plan import Plan, plan
from farrier.sizing.settings import PARSERS, Settings
from farrier.sizing.units import SizingError, format_bytes
from farrier.sizing.workload import Workload

#: Short names of farrier's worker classes, and where Gunicorn finds them.
WORKER_CLASSES = {
    "sync": "farrier.serve.workers.sync.SyncWorker",
    "gthread": "farrier.serve.workers.gthread.ThreadWorker",
    "asgi": "farrier.serve.workers.asgi.ASGIWorker",
    "uvicorn": "farrier.serve.workers.uvicorn.UvicornWorker",
    "gevent": "farrier.serve.workers.gevent.GeventWorker",
}
LOGGER_CLASS = "farrier.serve.log.Logger"
STATSD_LOGGER_CLASS = "farrier.serve.log.StatsdLogger"

#: A machine counts as resized beyond this share of memory: MemTotal moves a little with the kernel.
MEMORY_TOLERANCE = 0.02
CPU_TOLERANCE = 0.01

Change = tuple[str, str, dict[str, Any]]


@dataclass
class _State:
    """What outlives one evaluation in this process."""

    plan: Plan | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    given_plan: str | None = None
    reading_person: bool = False


_state = _State()


def plan_in_force() -> Plan | None:
    return _state.plan


def given_plan() -> str | None:
    """FARRIER_PLAN as this process got it, before the plan in force took its place for the app."""
    return _state.given_plan


def take_changes() -> list[Change]:
    """What the last evaluations changed, once: for the log lines of on_starting and on_reload."""
    found, _state.changes = _state.changes, []
    return found


def settings() -> dict[str, Any]:
    """For the two-line config file under plain ``gunicorn``."""
    if _state.reading_person:
        # The person's file is, or imports, our two lines: farrier is already at work around it.
        return {}
    try:
        return evaluate(os.environ, command_line())
    except FarrierError as error:
        if not _state.settings:
            print(f"farrier: {error}", file=sys.stderr, flush=True)
            raise SystemExit(error.status) from None
        # A HUP under plain gunicorn would end the master on any error: the settings in force stay.
        _state.changes.append(("error", f"settings not changed: {error}", {}))
        return dict(_state.settings)


def command_line() -> dict[str, Any]:
    """What Gunicorn's command line and GUNICORN_CMD_ARGS set, for the plan to know."""
    from gunicorn.config import Config

    known = Config()
    parser = known.parser()
    found: dict[str, Any] = {}
    for arguments in (known.get_cmd_args_from_env(), sys.argv[1:]):
        parsed, _ = parser.parse_known_args(arguments)
        found.update(
            {name: value for name, value in vars(parsed).items() if value is not None and name != "args"}
        )
    found.pop("config", None)
    return found


def evaluate(
    environ: Mapping[str, str], arguments: Mapping[str, Any], config_file: str | None = None
) -> dict[str, Any]:
    """Everything but the command line itself. Raises FarrierError, one line.

    ``arguments``: what the command line sets, by setting name; ``config_file``: the person's own.
    """
    slow_request(environ)
    first_workers(environ)
    gate(environ)
    health_path(environ.get("FARRIER_HEALTH_PATH", ""))
    log_shape(environ)
    theirs = read_person(config_file or environ.get("FARRIER_CONFIG") or None)
    name = os.path.basename(config_file or environ.get("FARRIER_CONFIG", ""))  # noqa: PTH119
    try:
        choices = Settings.merged(
            _planned(arguments, "command line"),
            Settings.from_environ(environ),
            _settings_file(environ.get("FARRIER_SETTINGS")),
            _planned(theirs, name),
        )
        made, changes = _plan(environ, choices)
    except SizingError as error:
        raise FarrierError(str(error)) from error
    found = _gunicorn_settings(environ, made, choices, theirs)
    _state.changes += changes
    if _state.plan is not None:
        _state.changes += _difference(_state.plan, made, "plan changed")
    _state.plan, _state.settings = made, found
    _hand_to_app(made)
    return dict(found)


def _planned(given: Mapping[str, Any], source: str) -> Settings:
    """Those of Gunicorn's settings that the plan knows as a person's choices."""
    known = {name: value for name, value in given.items() if name in PARSERS and not callable(value)}
    if isinstance(known.get("worker_class"), type):
        known["worker_class"] = f"{known['worker_class'].__module__}.{known['worker_class'].__name__}"
    return Settings.from_mapping(known, source)


def _settings_file(path: str | None) -> Settings:
    if not path:
        return Settings()
    document = _document(path, "FARRIER_SETTINGS", "a JSON object of settings")
    return Settings.from_mapping(document, os.path.basename(path))  # noqa: PTH119


def _document(path: str, variable: str, allowed: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FarrierError(f"{variable}: {path}: {reason}; allowed is {allowed}") from error
    return _object(text, f"{variable}: {path}", allowed)


def _object(text: str, where: str, allowed: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise FarrierError(f"{where} is not JSON ({error}); allowed is {allowed}") from error
    if not isinstance(found, dict):
        raise FarrierError(f"{where} holds {type(found).__name__}, not an object; allowed is {allowed}")
    return found


# --- the plan -----------------------------------------------------------------------------------


def _plan(environ: Mapping[str, str], choices: Settings) -> tuple[Plan, list[Change]]:
    ignore = tuple(name for name in environ.get("FARRIER_SLICE", "").split(",") if name)
    if _state.given_plan is None:
        _state.given_plan = environ.get("FARRIER_PLAN", "")
    given = _given_plan(_state.given_plan)
    if given is None:
        worker_class = choices.value("worker_class")
        workload = Workload.profile(worker_class=str(worker_class) if worker_class else None)
        return plan(read_budget(ignore=ignore), workload, choices), []
    if not environ.get("FARRIER_SETTINGS"):
        # No file holds the choices here, so those that the plan was made with go on holding.
        choices = Settings.merged(choices, given.settings)
    if "runtime" in given.settings and "runtime" not in choices:
        # Who runs it is nothing that a settings file says.
        runs = {"runtime": given.settings.value("runtime")}
        choices = Settings.merged(choices, Settings.from_mapping(runs, given.settings["runtime"].source))
    budget = _by_the_same_measure(given.budget, read_budget(ignore=ignore))
    if not _resized(given.budget, budget):
        same = _chosen(choices) == _chosen(given.settings)
        return (given if same else plan(given.budget, given.workload, choices)), []
    again = plan(budget, given.workload, choices)
    what = (
        f"{format_bytes(given.budget.memory_bytes)} and {_cpus(given.budget.cpus)} -> "
        f"{format_bytes(budget.memory_bytes)} and {_cpus(budget.cpus)}"
    )
    return again, _difference(
        given, again, f"planned again, the machine is another one ({what})", always=True
    )


def _given_plan(text: str) -> Plan | None:
    text = text.strip()
    if not text:
        return None
    allowed = "what 'farrier plan --json' prints"
    if text.startswith("{"):
        document = _object(text, "FARRIER_PLAN", allowed)
    else:
        document = _document(text, "FARRIER_PLAN", f"the path of a file that holds {allowed}")
    try:
        return Plan.from_dict(document)
    except (SizingError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if isinstance(error, SizingError) else f"{type(error).__name__} {error}"
        raise FarrierError(f"FARRIER_PLAN is not a plan: {reason}; allowed is {allowed}") from error


def _chosen(choices: Settings) -> dict[str, Any]:
    return {name: one.value for name, one in choices.items()}


def _by_the_same_measure(planned: Budget, now: Budget) -> Budget:
    """What is there now, as the plan counted it.

    Other apps keep what their plans take. And a hardened unit does not see PID 1, by which a container
    that plays a host is told from an app's own.
    """
    if planned.scope == "host" and now.scope != "host":
        now = replace(now, scope="host", machine_memory_bytes=now.memory_bytes)
    taken = planned.taken_bytes
    if not taken:
        return now
    return replace(
        now,
        memory_bytes=max(0, now.memory_bytes - taken),
        machine_memory_bytes=max(0, now.machine_memory_bytes - taken),
        taken_bytes=taken,
    )


def _resized(planned: Budget, now: Budget) -> bool:
    """Whether the plan no longer fits.

    A plan made elsewhere (scope given: a preview for Cloud Run) is kept as long as it fits, because
    not every platform shows its limits inside; one made here is made again for any change.
    """
    less = (
        now.memory_bytes < planned.memory_bytes * (1 - MEMORY_TOLERANCE)
        or now.cpus < planned.cpus - CPU_TOLERANCE
    )
    if less or planned.scope == "given":
        return less
    return (
        now.memory_bytes > planned.memory_bytes * (1 + MEMORY_TOLERANCE)
        or now.cpus > planned.cpus + CPU_TOLERANCE
    )


def _difference(before: Plan, after: Plan, why: str, always: bool = False) -> list[Change]:
    old = {name: one.value for name, one in before.fields.items()}
    new = {name: one.value for name, one in after.fields.items()}
    changed = {name: [old.get(name), value] for name, value in new.items() if old.get(name) != value}
    if not changed and not always:
        return []
    unit = {name: one.unit for name, one in after.fields.items()}
    text = (
        ", ".join(
            f"{name} {_sized(was, unit[name])} -> {_sized(now, unit[name])}"
            for name, (was, now) in changed.items()
        )
        or "the numbers stay"
    )
    return [("warning" if always else "info", f"{why}: {text}", {"changed": changed})]


def _sized(value: Any, unit: str | None) -> Any:
    return format_bytes(value) if unit == "bytes" and isinstance(value, int) else value


def _cpus(count: float) -> str:
    return f"{count:g} CPU" if count == 1 else f"{count:g} CPUs"


def _hand_to_app(made: Plan) -> None:
    """The app reads its share (pools, memory) from FARRIER_PLAN: it must be the plan in force."""
    os.environ["FARRIER_PLAN"] = json.dumps(made.to_dict(), separators=(",", ":"), default=str)


def summary() -> tuple[str, dict[str, Any]]:
    """The message and fields of the ``starting`` event."""
    made = _state.plan
    if made is None:
        return "starting", {}
    chosen = {
        name: made.value(name) for name in ("workers", "threads", "worker_class", "timeout", "max_requests")
    }
    plural = "" if chosen["workers"] == 1 else "s"
    text = (
        f"starting {chosen['workers']} {chosen['worker_class']} worker{plural} "
        f"for {format_bytes(made.budget.memory_bytes)} and {_cpus(made.budget.cpus)} ({made.verdict.level})"
    )
    fields: dict[str, Any] = {**chosen, "memory_bytes": made.budget.memory_bytes, "cpus": made.budget.cpus}
    return text, {**fields, "verdict": made.verdict.level, "warnings": list(made.warnings) or None}


# --- Gunicorn's names ---------------------------------------------------------------------------


def _gunicorn_settings(
    environ: Mapping[str, str], made: Plan, choices: Settings, theirs: Mapping[str, Any]
) -> dict[str, Any]:
    register_worker_classes()
    found = _defaults(environ)
    # What the plan does not know is applied as the person wrote it, hooks apart.
    found.update({name: value for name, value in theirs.items() if name not in hooks.HOOKS})
    found.update({name: value for name, value in made.gunicorn_settings().items() if value is not None})
    if made.fields["loglevel"].source == "plan" and sys.stderr.isatty():
        # Somebody is looking on: let them see that it is ready.
        found["loglevel"] = "info"
    if choices.value("bind"):
        found["bind"] = str(choices.value("bind")).split(",")
    if choices.value("reload") is not None:
        found["reload"] = choices.value("reload")
    found.update(hooks.chained({name: theirs[name] for name in hooks.HOOKS if name in theirs}))
    return found


def _defaults(environ: Mapping[str, str]) -> dict[str, Any]:
    """What every app gets unless a person says otherwise."""
    found: dict[str, Any] = {
        "logger_class": LOGGER_CLASS,
        "capture_output": True,
        # Without authentication and with a path per user, a second app would take it over.
        "control_socket_disable": True,
    }
    folder = environ.get("FARRIER_RUN_DIR")
    if folder:
        from farrier.serve.state import instance_name

        found["control_socket"] = f"{folder}/{instance_name(environ)}.ctl"
        found["control_socket_mode"] = 0o600
    if environ.get("FARRIER_APP"):
        instance = environ.get("FARRIER_INSTANCE")
        found["proc_name"] = environ["FARRIER_APP"] + (f"@{instance}" if instance else "")
    if environ.get("ENVIRONMENT") == "development":
        found.update(accesslog="-", reload=True)
    return found


def slow_request(environ: Mapping[str, str]) -> float | None:
    """FARRIER_SLOW_REQUEST in seconds; None (unset, empty or 0): no request is slow."""
    text = environ.get("FARRIER_SLOW_REQUEST", "")
    try:
        seconds = float(text or 0)
    except ValueError as error:
        raise FarrierError(f"FARRIER_SLOW_REQUEST={text}: must be a number of seconds (0: off)") from error
    return seconds if seconds > 0 else None


def first_workers(environ: Mapping[str, str]) -> int | None:
    """FARRIER_FIRST_WORKERS: how many workers to start with whatever the plan says; None: as planned."""
    text = environ.get("FARRIER_FIRST_WORKERS", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= SLOTS):
        raise FarrierError(
            f"FARRIER_FIRST_WORKERS={text}: must be a whole number of workers from 1 to {SLOTS} "
            "(empty: as planned)"
        )
    return int(text)


def gate(environ: Mapping[str, str]) -> bool:
    """FARRIER_GATE: whether this server only shows that the app becomes ready, and accepts nothing."""
    text = environ.get("FARRIER_GATE", "").strip()
    if text not in ("", "0", "1"):
        raise FarrierError(f"FARRIER_GATE={text}: must be 1 (one worker that accepts nothing) or 0")
    return text == "1"


def log_shape(environ: Mapping[str, str]) -> str | None:
    """FARRIER_LOG, json or text; None: not chosen."""
    chosen = environ.get("FARRIER_LOG", "").strip().lower()
    if chosen not in ("", "json", "text"):
        raise FarrierError(f"FARRIER_LOG={chosen}: must be json or text")
    return chosen or None


def register_worker_classes() -> None:
    """Let Gunicorn find farrier's classes by their short names, on its command line too."""
    from gunicorn.workers import SUPPORTED_WORKERS

    SUPPORTED_WORKERS.update(WORKER_CLASSES)


# --- the person's own config file ---------------------------------------------------------------


@contextmanager
def _reading() -> Iterator[None]:
    _state.reading_person = True
    try:
        yield
    finally:
        _state.reading_person = False


def read_person(location: str | None) -> dict[str, Any]:
    """Settings and hooks of a person's own Gunicorn config file (a path or ``python:module``).

    Raises FarrierError with the line of the file that cannot be run.
    """
    if not location:
        return {}
    from gunicorn.config import make_settings

    with _reading():
        names = _module(location) if location.startswith("python:") else _file(location.removeprefix("file:"))
    known = make_settings()
    return {name: value for name, value in names.items() if name in known}


def _module(location: str) -> dict[str, Any]:
    from importlib import import_module, reload

    name = location.removeprefix("python:")
    try:
        module = sys.modules.get(name)
        # Gunicorn never evaluates a module again; a HUP ought to.
        return dict(vars(reload(module) if module else import_module(name)))
    except Exception as error:
        raise FarrierError(f"{location}: {type(error).__name__}: {error}") from error


def _file(path: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__config__", "__file__": os.path.abspath(path)}  # noqa: PTH100
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        exec(code, names)  # noqa: S102 - a Gunicorn config file is a Python program
    except OSError as error:
        raise FarrierError(f"config file {path}: {error.strerror or error}") from error
    except SyntaxError as error:
        raise FarrierError(f"config file {path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        raise FarrierError(
            f"config file {path}{_line(error, path)}: {type(error).__name__}: {error}"
        ) from error
    return names


def _line(error: BaseException, path: str) -> str:
    found = ""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == path:
            found = f", line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found
