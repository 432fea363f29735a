# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""farrier.web.preflight: what the controller can refuse is refused here, before the host is asked."""

from __future__ import annotations

from typing import Any

from ansible_collections.farrier.web.plugins.module_utils.app_options import SECRETS
from ansible_collections.farrier.web.plugins.plugin_utils.app_source import checked_options, listen_of
from ansible_collections.farrier.web.plugins.plugin_utils.fleet import HostAction


class ActionModule(HostAction):
    """Checks the variables on the controller, then lets the module look at the host."""

    _supports_check_mode = True
    _supports_diff = False
    _requires_connection = True

    def act(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Refuse in one line, or answer with what the module found."""
        options = checked_options(self._task.args, task_vars)
        if not options["set_up"]:
            # A host that serves the app has been looked at; farrier itself looks again when it deploys.
            return {"changed": False, "missing_packages": []}
        if options["state"] == "present":
            options["listen"] = listen_of(options)
        # The look at the host needs no secrets.
        arguments = {key: value for key, value in options.items() if key not in SECRETS}
        return self._execute_module(module_args=arguments, task_vars=task_vars)
