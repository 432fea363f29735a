# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller knows about an app: its options, and the files that stay on the controller.

The spec itself is checked by the same code that checks it on the host: farrier/release/spec.py.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.farrier.web.farrier.release.spec import Spec, SpecError
from ansible_collections.farrier.web.plugins.module_utils.app_options import (
    APP_OPTIONS,
    in_variables,
    remote_source,
    spec_of,
)

_REQUIREMENT = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"  # name
    r"(\s*\[[A-Za-z0-9._, -]*\])?"  # extras
    r"(\s*@\s*\S+|\s*\(?\s*((===|~=|==|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+\s*,?\s*)+\)?)?"  # URL or versions
    r"(\s*;.*)?"  # marker
)
#: What farrier's own units, folders and command are called, and who serves no app.
_RESERVED = ("farrier", "root")
#: The prefix of the role's variables, and what the role itself registers under it.
ROLE_PREFIX = "gunicorn_app_"
REGISTERED = ("preflight", "installed", "result")
#: Bytes below which a size has surely lost its unit.
_LEAST_MEMORY = 2**20
#: Stands for the archive until it is packed: the check looks at its shape only.
_UNPACKED = {"type": "archive", "path": "/source.tar.gz", "sha256": "0" * 64}


def checked_options(args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
    """The options with local paths made absolute. Raises AnsibleActionFail with one line for each problem."""
    given = {key: value for key, value in args.items() if value is not None}
    prefix = str(given.get("prefix", ""))
    if problems := [*_unknown_variables(prefix, task_vars), *_strings_for_mappings(given)]:
        raise AnsibleActionFail("\n".join(prefix + problem for problem in problems))
    # The validator writes into the defaults that it is given.
    result = ArgumentSpecValidator(deepcopy(APP_OPTIONS)).validate(given)
    if result.error_messages:
        raise AnsibleActionFail("\n".join(result.error_messages))
    options = dict(result.validated_parameters)
    for nested in (name for name, option in APP_OPTIONS.items() if "options" in option):
        # The validator fills in None for what was left out; the module's own would refuse that.
        options[nested] = {key: value for key, value in options[nested].items() if value is not None}
    problems = _name_problems(options)
    if options["state"] == "present":
        problems += [*_source_problems(options), *_requirement_problems(options)]
        problems += [*_memory_problems(options), *_python_problems(options)]
        problems += _local_file_problems(options, task_vars)
    if not problems:
        problems = _spec_problems(options)
    if problems:
        raise AnsibleActionFail("\n".join(prefix + problem for problem in problems))
    return options


def listen_of(options: dict[str, Any]) -> dict[str, Any]:
    """Where the app will listen: ``kind``, ``host``, ``port``, ``path``."""
    listen = Spec.from_mapping(spec_of(options, remote_source(options) or _UNPACKED)).listen
    return {"kind": listen.kind, "host": listen.host, "port": listen.port, "path": listen.path}


def _unknown_variables(prefix: str, names: Iterable[str]) -> list[str]:
    """Variables that look like the role's and are none: a slip that would otherwise pass in silence."""
    if prefix != ROLE_PREFIX:
        return []
    known = [name for name in APP_OPTIONS if name != "prefix"]
    problems = []
    for variable in sorted(str(name) for name in names if str(name).startswith(prefix)):
        name = variable.removeprefix(prefix)
        if name not in (*known, *REGISTERED):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else "the role's README has all of them"
            problems.append(f"{name}: the role has no such variable; {hint}")
    return problems


def _strings_for_mappings(given: dict[str, Any]) -> list[str]:
    """Ansible would read ``workers=3`` as a mapping of texts. JSON is taken."""
    mappings = [name for name, option in APP_OPTIONS.items() if option["type"] == "dict"]
    return [
        f"{name}: given a text; allowed: a mapping, such as {{{example}}}"
        for name, example in ((name, _EXAMPLES.get(name, "NAME: value")) for name in mappings)
        if isinstance(given.get(name), str) and not given[name].lstrip().startswith("{") and given[name]
    ]


_EXAMPLES = {
    "settings": "workers: 3",
    "database": "max_connections: 100",
    "workload": "kind: io",
    "measure": "enabled: false",
    "guard": "seconds: 30",
    "notify": "command: 'mail -s deploy team@example.org'",
}


def _name_problems(options: dict[str, Any]) -> list[str]:
    if options["name"] not in _RESERVED:
        return []
    return [f"name: given {options['name']!r}; allowed: any name but {' and '.join(_RESERVED)}"]


def _memory_problems(options: dict[str, Any]) -> list[str]:
    """A bare number is bytes everywhere in farrier; nobody gives an app less than 1 MiB of them."""
    text = options["memory"].strip()
    if not text.isdigit() or int(text) >= _LEAST_MEMORY:
        return []
    return [f"memory: given {text}, which is {text} bytes; write the unit, such as {text}MiB"]


def _python_problems(options: dict[str, Any]) -> list[str]:
    if not re.fullmatch(r"3\.\d", options["python"]):
        return []
    quoted = f"{options['python']}0"
    return [
        f"python: given {options['python']}; allowed: 3.10 or newer, and quoted: "
        f'without quotes YAML reads {quoted} as the number {options["python"]}, write "{quoted}"'
    ]


def _source_problems(options: dict[str, Any]) -> list[str]:
    given = [key for key in ("path", "git_repo", "requirement") if options[key]]
    if len(given) == 1:
        return []
    told = f"{' and '.join(given)} are given" if given else "no source is given"
    return [f"path: {told}; set exactly one of path (a folder here), git_repo or requirement (a package)"]


def _requirement_problems(options: dict[str, Any]) -> list[str]:
    named = [("requirement", options["requirement"])] if options["requirement"] else []
    named += [("extra_requirements", requirement) for requirement in options["extra_requirements"]]
    problems = [
        f"{option}: given {text!r}; allowed: a requirement such as shop==1.2 or psycopg[binary]>=3.1"
        for option, text in named
        if not _REQUIREMENT.fullmatch(text.strip())
    ]
    problems += [
        f"system_packages: given {name!r}; allowed: names of Debian packages, such as libpq5"
        for name in options["system_packages"]
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]+(=\S+)?", name)
    ]
    return problems


def _local_file_problems(options: dict[str, Any], task_vars: dict[str, Any]) -> list[str]:
    problems = []
    if options["path"]:
        folder = _local(options["path"], task_vars)
        options["path"] = str(folder)
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist on this controller"
            problems.append(f"path: {folder} {what}; give the folder that holds the app's source")
        else:
            problems += [
                f"{option}: {options[option]} is not in {folder}"
                for option in ("requirements", "chdir")
                if options[option] and not (folder / options[option]).exists()
            ]
    if options["ca_bundle"]:
        bundle = _local(options["ca_bundle"], task_vars)
        options["ca_bundle"] = str(bundle)
        if not bundle.is_file() or b"BEGIN CERTIFICATE" not in bundle.read_bytes():
            problems.append(f"ca_bundle: {bundle} is no file of PEM certificates on this controller")
    return problems


def _local(path: str, task_vars: dict[str, Any]) -> Path:
    """A path of the controller; a relative one is beside the inventory, the playbook or where we are."""
    given = Path(path).expanduser()
    starts = [task_vars.get("inventory_dir"), task_vars.get("playbook_dir"), Path.cwd()]
    places = [Path(os.path.normpath(Path(start, given))) for start in starts if start]
    return next((place for place in places if place.exists()), places[0])


def _spec_problems(options: dict[str, Any]) -> list[str]:
    """What farrier itself says about the wanted state, in the words of the person's variables."""
    try:
        Spec.from_mapping(spec_of(options, remote_source(options) or _UNPACKED))
    except SpecError as refused:
        return [in_variables(problem, {**options, "prefix": ""}) for problem in refused.problems]
    return []
