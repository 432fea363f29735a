# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""farrier.web.release: says who asked, and shows what the host did."""

from __future__ import annotations

import getpass
import socket
from typing import Any

from ansible_collections.farrier.web.plugins.plugin_utils.fleet import HostAction


class ActionModule(HostAction):
    """One module execution; the work is done by the host."""

    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = True

    def act(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Ask the host, and show its steps with -v."""
        arguments = {**self._task.args, "who": f"{getpass.getuser()}@{socket.gethostname()}"}
        # A host that cannot be reached is told at once; one that is lost later is asked again.
        self._low_level_execute_command(":")
        # To go back to the release before, asked twice, is to go back twice.
        again = arguments.get("action") != "rollback" or bool(arguments.get("release"))
        return self.ask(task_vars, f"/srv/{arguments.get('name')}", again, module_args=arguments)
