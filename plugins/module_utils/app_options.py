# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one app is described by: the options that farrier.web.preflight and farrier.web.app share."""

from __future__ import annotations

import json
import re

#: Options whose values nobody else may see. They travel to the host as one text: Ansible would take each
#: value of a dict for a secret, and a ``DEBUG: "1"`` would turn every 1 of its output into asterisks.
SECRETS = ("env", "installer_env", "git_deploy_key", "notify")

#: The options of plugins/doc_fragments/app.py, where each is explained.
APP_OPTIONS = {
    "name": {"type": "str", "required": True},
    "app": {"type": "str", "default": ""},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "path": {"type": "str", "default": ""},
    "git_repo": {"type": "str", "default": ""},
    "git_ref": {"type": "str", "default": "HEAD"},
    "git_deploy_key": {"type": "str", "default": "", "no_log": True},
    "requirement": {"type": "str", "default": ""},
    "requirements": {"type": "str", "default": ""},
    "extra_requirements": {"type": "list", "elements": "str", "default": []},
    "python": {"type": "str", "default": ""},
    "system_packages": {"type": "list", "elements": "str", "default": []},
    "installer": {"type": "str", "choices": ["auto", "uv", "pip"], "default": "auto"},
    "installer_env": {"type": "dict", "default": {}, "no_log": True},
    "ca_bundle": {"type": "str", "default": ""},
    "override_gunicorn": {"type": "bool", "default": False},
    "pythonpath": {"type": "list", "elements": "str", "default": []},
    "chdir": {"type": "str", "default": ""},
    "bind": {"type": "str", "default": "127.0.0.1:8000"},
    "user": {"type": "str", "default": ""},
    "group": {"type": "str", "default": ""},
    "root": {"type": "str", "default": ""},
    "env": {"type": "dict", "default": {}, "no_log": True},
    "env_files": {"type": "list", "elements": "str", "default": []},
    "shared": {"type": "list", "elements": "str", "default": []},
    "build_commands": {"type": "list", "elements": "str", "default": []},
    "migrate_commands": {"type": "list", "elements": "str", "default": []},
    "ready": {"type": "list", "elements": "str", "default": []},
    "health_path": {"type": "str", "default": "/health"},
    "settings": {"type": "dict", "default": {}},
    "memory": {"type": "str", "default": ""},
    "cpus": {"type": "str", "default": ""},
    "database": {
        "type": "dict",
        "default": {},
        "options": {
            "max_connections": {"type": "int"},
            "reserved_connections": {"type": "int"},
            "memory": {"type": "str"},
        },
    },
    "workload": {
        "type": "dict",
        "default": {},
        "options": {
            "kind": {"type": "str", "choices": ["io", "cpu", "mixed", "async"]},
            "framework": {"type": "str", "choices": ["django", "flask", "fastapi"]},
            "app_memory": {"type": "str"},
            "request_memory": {"type": "str"},
            "connection_memory": {"type": "str"},
            "boot_seconds": {"type": "float"},
            "preload_safe": {"type": "bool"},
        },
    },
    "config_file": {"type": "str", "default": ""},
    "strategy": {
        "type": "str",
        "choices": ["auto", "overlap", "rolling", "queue", "reload"],
        "default": "auto",
    },
    "weight": {"type": "int", "default": 100},
    "measure": {
        "type": "dict",
        "default": {},
        "options": {
            "enabled": {"type": "bool"},
            "requests": {"type": "list", "elements": "str"},
            "headers": {"type": "list", "elements": "str", "no_log": True},
            "seconds": {"type": "int"},
        },
    },
    "guard": {
        "type": "dict",
        "default": {},
        "options": {
            "seconds": {"type": "float"},
            "errors": {"type": "float"},
            "latency": {"type": "float"},
            "requests": {"type": "int"},
            "restarts": {"type": "int"},
        },
    },
    "notify": {
        "type": "dict",
        "default": {},
        "no_log": True,
        "options": {
            "webhook": {"type": "str"},
            "command": {"type": "str"},
        },
    },
    "retry_bad": {"type": "bool", "default": False},
    "migrate_on": {"type": "str", "choices": ["first", "each", "never"], "default": "first"},
    "set_up": {"type": "bool", "default": True},
    "start_timeout": {"type": "int", "default": 0},
    "keep_releases": {"type": "int", "default": 3},
    "keep_data": {"type": "bool", "default": False},
    "prefix": {"type": "str", "default": ""},
}

#: Where a person wrote what the spec calls otherwise.
_WRITTEN = {
    "source.path": "path",
    "source.repo": "git_repo",
    "source.ref": "git_ref",
    "source.deploy_key": "git_deploy_key",
    "source.requirement": "requirement",
    "commands.build": "build_commands",
    "commands.migrate": "migrate_commands",
    "settings.memory_limit": "memory",
    "settings.strategy": "strategy",
    "settings.cpu_limit": "cpus",
    "settings.database_max_connections": "database.max_connections",
    "settings.database_reserved_connections": "database.reserved_connections",
    "settings.database_memory": "database.memory",
}
#: Options that the spec holds under the same name and that are left out of it when empty.
_SAME = """
app user group root bind requirements extra_requirements python installer override_gunicorn pythonpath
chdir env env_files shared ready config_file keep_releases
""".split()  # noqa: SIM905


def spec_of(options: dict, source: dict, **more: object) -> dict:
    """The wanted state as ``farrier release apply`` takes it (farrier/release/spec.py)."""
    spec = {"schema": 1, "name": options["name"], "state": options["state"], **more}
    if options["state"] == "absent":
        spec.update({key: options[key] for key in ("root", "user", "group") if options[key]})
        spec["keep_data"] = options["keep_data"]
        return spec
    spec.update({key: options[key] for key in _SAME if options[key] not in ("", [], {}, None)})
    if options["weight"] != 100:
        spec["weight"] = options["weight"]
    if options["start_timeout"]:
        spec["start_timeout"] = options["start_timeout"]
    spec["source"] = source
    spec["health_path"] = options["health_path"]
    spec["settings"] = chosen_settings(options)
    spec["workload"] = _given(options["workload"])
    spec.update({key: given for key in ("measure", "guard", "notify") if (given := _given(options[key]))})
    if options["retry_bad"]:
        spec["retry_bad"] = True
    spec["commands"] = {"build": options["build_commands"], "migrate": options["migrate_commands"]}
    # An empty value of env is a value; of installer_env it says "not set here" (a proxy that a group sets).
    spec["installer_env"] = {key: value for key, value in options["installer_env"].items() if value != ""}
    return spec


def remote_source(options: dict) -> dict:
    """A source that the host fetches itself; empty for a folder of the controller."""
    if options["git_repo"]:
        source = {"type": "git", "repo": options["git_repo"], "ref": options["git_ref"]}
        return {**source, "deploy_key": options["git_deploy_key"]} if options["git_deploy_key"] else source
    if options["requirement"]:
        return {"type": "requirement", "requirement": options["requirement"]}
    return {}


def chosen_settings(options: dict) -> dict:
    """A person's choices as farrier's settings: ``settings`` and what other options say of the plan."""
    database = options["database"] or {}
    named = {
        "memory_limit": options["memory"] or None,
        "strategy": None if options["strategy"] == "auto" else options["strategy"],
        "cpu_limit": options["cpus"] or None,
        "database_max_connections": database.get("max_connections"),
        "database_reserved_connections": database.get("reserved_connections"),
        "database_memory": database.get("memory"),
    }
    return {**options["settings"], **_given(named)}


#: What preflight tells of a plan that the release will make anew.
_SHORT = ("workers", "threads", "worker_class", "preload_app", "strategy", "memory_deploy_peak", "verdict")


def in_short(plan: dict) -> dict:
    """A plan from assumed figures, for Ansible's output."""
    return {key: plan[key] for key in _SHORT}


def without_reasons(plan: dict) -> dict:
    """A plan's values and verdict, for Ansible's output; the reasons are in plan.json on the host."""
    return {key: value for key, value in plan.items() if key not in ("fields", "inputs", "schema")}


def in_variables(message: str, options: dict) -> str:
    """``bind: ...`` of the spec is ``gunicorn_app_bind: ...`` for the person who wrote it; line by line."""
    # What farrier advises for its own command line, such as "set retry_bad: true (--retry-bad)".
    message = re.sub(r"\bset (\w+: \w+) \(--[a-z-]+\)", rf"set {options['prefix']}\1", message)
    return "\n".join(_line_in_variables(line, options) for line in message.splitlines())


def warning_in_variables(warning: str, options: dict) -> str:
    """A warning of the plan, with the names that the person knows."""
    told = warning.replace("settings.json: ", f"{options['prefix']}settings: ", 1)
    for key, written in _WRITTEN.items():
        inner = key.removeprefix("settings.")
        if inner != key and inner not in options["settings"]:
            told = re.sub(rf"\b{inner}\b", f"{options['prefix']}{written}", told)
    return told if told != warning else f"{options['name']}: {warning}"


def _line_in_variables(line: str, options: dict) -> str:
    key, colon, rest = line.removeprefix(f"{options['name']}: ").partition(": ")
    if not colon or key.split(".")[0] not in {*APP_OPTIONS, "source", "commands"}:
        return line
    written_there = key.startswith("settings.") and key.partition(".")[2] in options["settings"]
    variable = key if written_there else _WRITTEN.get(key, key)
    # Where the host will keep the setting is no news to the person who wrote it elsewhere.
    told = rest.removeprefix("settings.json: ")
    if variable != key:
        # Nor is the name that it has there.
        inner = re.escape(key.partition(".")[2])
        told = re.sub(rf"^{inner}=(.*?): {inner} must", r"given \1: it must", told)
    return f"{options['prefix']}{variable}: {told}"


def sealed(options: dict) -> dict:
    """The options as they travel to the host: the secret ones as one text, which Ansible never shows."""
    opened = {key: value for key, value in options.items() if key not in SECRETS}
    return {**opened, "secrets": json.dumps({key: options[key] for key in SECRETS})}


def unsealed(arguments: dict) -> dict:
    """The inverse of sealed()."""
    options = {key: value for key, value in arguments.items() if key != "secrets"}
    return {**options, **json.loads(arguments["secrets"] or "{}")}


_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASS|PWD|CREDENTIAL|AUTH|DSN|SALT|SIGN", re.IGNORECASE)
#: A module, a path, a host, a plain address or a number: what a message is about, and no secret.
_PLAIN = re.compile(r"(https?://)?/?[A-Za-z_]\w*([./:-][A-Za-z0-9_]+)+/?|/[\w./-]*|[0-9.,:_-]+|[A-Za-z]+")


def hidden_texts(options: dict) -> set:
    """What must not show up in any message: secrets that are long enough to be looked for in free text."""
    key = options["git_deploy_key"].strip()
    found = {key, *(line for line in key.splitlines() if len(line) > 40)}
    # Whoever has a webhook's address can write there.
    found.add(str((options["notify"] or {}).get("webhook") or ""))
    for name, value in [*options["env"].items(), *options["installer_env"].items()]:
        text = str(value)
        named = _SECRET_NAME.search(str(name))
        if len(text) >= (6 if named else 8) and (named or not _PLAIN.fullmatch(text)):
            found |= {text, json.dumps(text)[1:-1], repr(text)[1:-1]}
        found |= _passwords(text)
    return found - {""}


def _passwords(text: str) -> set:
    """The password in an address such as ``postgres://shop:PASSWORD@host/shop``."""
    found = re.search(r"://[^/@:]*:([^/@]{4,})@", text)
    return {found.group(1)} if found else set()


def _given(values: dict | None) -> dict:
    return {key: value for key, value in (values or {}).items() if value is not None}
