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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.farrier.web.farrier.release import layout, runtime
from ansible_collections.farrier.web.plugins.module_utils.app_options import sealed, without_reasons
from ansible_collections.farrier.web.plugins.plugin_utils.app_source import checked_options
from ansible_collections.farrier.web.plugins.plugin_utils.archive import SourceError, pack

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


class ActionModule(ActionBase):
    """Happy path: one low-level command, one module execution; a transfer only when something is new."""

    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Deploy, or say in check mode what would change."""
        super().run(tmp, task_vars)
        options = checked_options(self._task.args, task_vars or {})
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
            "who": f"{getpass.getuser()}@{socket.gethostname()}",
        }
        result = self._execute_module(
            module_name="farrier.web.app", module_args=arguments, task_vars=task_vars
        )
        self._show_steps(result)
        if result.get("plan"):
            self._show_reasons(result["plan"])
            result["plan"] = without_reasons(result["plan"])
        return result

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

    def _show_steps(self, result: dict[str, Any]) -> None:
        """With -v: what was done, and how long each step took."""
        for step in result.get("steps") or []:
            mark = "changed" if step.get("changed") else "ok"
            detail = step.get("detail") or ""
            display.v(f"{step.get('seconds', 0):6.1f} s  {mark:<7}  {step['name']}  {detail}".rstrip())

    def _show_reasons(self, plan: dict[str, Any]) -> None:
        """With -vv: each value of the plan, and why it is that."""
        for name, field in plan.get("fields", {}).items():
            display.vv(f"{name} = {field['value']}: {field['why']} [{field['bound_by']}]")
