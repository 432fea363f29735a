# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""farrier.web.app: builds what the host needs, sends what it does not have, and runs one module."""

from __future__ import annotations

import getpass
import hashlib
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.farrier.web.farrier.release import layout, runtime
from ansible_collections.farrier.web.plugins.module_utils.app_options import (
    hidden_texts,
    sealed,
    without_reasons,
)
from ansible_collections.farrier.web.plugins.plugin_utils.app_source import checked_options
from ansible_collections.farrier.web.plugins.plugin_utils.archive import SourceError, pack
from ansible_collections.farrier.web.plugins.plugin_utils.fleet import (
    FirstFailed,
    HostAction,
    Turn,
    migrations_turn,
    patience_of,
    turn_place,
)

display = Display()

CERTIFICATES = layout.VAR / "ca"


@dataclass(frozen=True)
class Parcel:
    """A file of the controller that the host is to have at ``place``."""

    kind: str
    local: Path
    place: Path
    sha256: str = ""
    folder_mode: int = 0o755


class ActionModule(HostAction):
    """Happy path: one low-level command, one module execution; a transfer only when something is new."""

    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = True

    def act(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Deploy, or say in check mode what would change."""
        options = checked_options(self._task.args, task_vars)
        with self._migrations(options, task_vars) as turn:
            result = self._deploy(options, turn, task_vars)
            turn.good = not result.get("failed")
        if result.get("plan"):
            self._show_reasons(result["plan"])
            result["plan"] = without_reasons(result["plan"])
        return result

    @contextmanager
    def _migrations(self, options: dict[str, Any], task_vars: dict[str, Any]) -> Iterator[Turn]:
        """Whether the migrations run on this host; where another one runs them, once that is done."""
        chosen = options["migrate_on"]
        if chosen != "first" or not options["migrate_commands"] or options["state"] == "absent":
            yield Turn(here=chosen != "never")
            return
        play = self._task.get_play()
        place = turn_place(constants.DEFAULT_LOCAL_TMP, play._uuid if play else "", options["name"])
        host = str(task_vars.get("inventory_hostname", ""))
        try:
            with migrations_turn(place, host, display.v, patience_of(host, task_vars)) as turn:
                yield turn
        except FirstFailed as refused:
            raise AnsibleActionFail(f"{options['prefix']}{refused}") from None

    def _deploy(self, options: dict[str, Any], turn: Turn, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Pack, send what the host does not have, run the module there."""
        workshop = Path(tempfile.mkdtemp(prefix="farrier-"))
        try:
            version, parcels = self._make(options, workshop)
            sent = self._send(parcels)
        except (OSError, SourceError) as refused:
            raise AnsibleActionFail(f"{options['prefix']}path: {refused}") from refused
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
        arguments = {
            **sealed(options),
            "runtime": version,
            "parcels": {
                parcel.kind: {
                    "place": str(parcel.place),
                    "sent": sent.get(parcel.kind, ""),
                    "sha256": parcel.sha256,
                    "folder_mode": parcel.folder_mode,
                }
                for parcel in parcels
            },
            "migrate_here": turn.here,
            "who": f"{getpass.getuser()}@{socket.gethostname()}",
        }
        root = options["root"] or f"/srv/{options['name']}"
        hidden = hidden_texts(options)
        return self.ask(task_vars, root, hidden=hidden, module_name="farrier.web.app", module_args=arguments)

    def _make(self, options: dict[str, Any], workshop: Path) -> tuple[str, list[Parcel]]:
        """Build the runtime's wheel and, for a source on this controller, the archive."""
        own = runtime.find(None)
        wheel = workshop / own.placed_wheel.name
        runtime.pack(runtime.home() / "farrier", wheel)
        parcels = [Parcel("wheel", wheel, own.placed_wheel)]
        if options["state"] == "absent":
            return own.version, parcels
        if options["path"]:
            source = pack(Path(options["path"]), workshop / "source.tar.gz")
            display.v(f"{options['path']}: {source.files} files, {source.size // 1024} KiB to serve")
            place = layout.UPLOADS / f"{source.sha256}.tar.gz"
            parcels.append(Parcel("source", source.path, place, source.sha256, 0o700))
        if options["ca_bundle"]:
            bundle = Path(options["ca_bundle"])
            digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
            parcels.append(Parcel("ca", bundle, CERTIFICATES / f"{digest[:16]}.pem", digest))
        return own.version, parcels

    def _send(self, parcels: list[Parcel]) -> dict[str, str]:
        """Ask once what the host has; put the rest into Ansible's own temporary folder there."""
        tests = "; ".join(
            f"test -f {shlex.quote(str(parcel.place))} && echo {parcel.kind}" for parcel in parcels
        )
        answer = self._low_level_execute_command(f"{tests}; echo asked")
        said = answer["stdout"].split()
        if "asked" not in said:
            raise AnsibleActionFail(
                f"the host did not answer: {answer['stderr'].strip() or answer['stdout'].strip()}"
            )
        missing = [parcel for parcel in parcels if parcel.kind not in said]
        if not missing:
            return {}
        folder = self._connection._shell.tmpdir or self._make_tmp_path()
        sent = {
            parcel.kind: self._connection._shell.join_path(folder, parcel.local.name) for parcel in missing
        }
        for parcel in missing:
            display.v(f"sending {parcel.kind}: {parcel.local.stat().st_size // 1024} KiB")
            self._transfer_file(str(parcel.local), sent[parcel.kind])
        self._fixup_perms2([folder, *sent.values()])
        return sent

    def _show_reasons(self, plan: dict[str, Any]) -> None:
        """With -vv: each value of the plan, and why it is that."""
        for name, field in plan.get("fields", {}).items():
            display.vv(f"{name} = {field['value']}: {field['why']} [{field['bound_by']}]")
