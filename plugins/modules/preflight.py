#!/usr/bin/python
# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Refuses what cannot work, before anything on the host changes
version_added: 0.1.0
description:
  - Checks the variables of one app on the controller, then looks at the host.
    Is it a Debian with systemd and Python 3.10 or newer? Is there room on disk and in memory?
    Is the port free? Does the name belong to this app?
  - Each problem ends the play in one line that names the variable and says what is allowed.
  - Answers with the memory and CPU that the app really gets there, the plan for it and the missing packages.
  - Never changes anything, and does the same in check mode.
author:
  - The Farrier project (@farrier-web)
options:
  listen:
    description:
      - Where O(bind) listens, taken apart. The controller fills it in.
    type: dict
    default: {}
extends_documentation_fragment:
  - farrier.web.app
attributes:
  check_mode:
    support: full
    description: It only looks.
  diff_mode:
    support: none
    description: It changes nothing that could differ.
seealso:
  - module: farrier.web.app
"""

EXAMPLES = r"""
- name: See that the host can serve the app
  farrier.web.preflight:
    name: shop
    app: shop.main:app
    path: ../shop
    settings:
      worker_class: gthread
  register: shop_preflight

- name: Show what it would get
  ansible.builtin.debug:
    msg: "{{ shop_preflight.plan.workers }} workers, {{ shop_preflight.plan.verdict.why }}"
"""

RETURN = r"""
budget:
  description: What the app really gets on the host, and which limit said so.
  returned: when O(state=present)
  type: dict
  sample:
    memory_bytes: 536870912
    cpus: 1.0
    memory_source: /sys/fs/cgroup/memory.max
plan:
  description:
    - The plan from assumed figures, in short. The release measures the app and plans again, and
      M(farrier.web.app) answers with the plan in force.
  returned: when O(state=present)
  type: dict
missing_packages:
  description: Debian packages that the app needs and the host has not.
  returned: always
  type: list
  elements: str
  sample: [python3-venv]
"""

import os
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.farrier.web.plugins.module_utils.app_options import (
    APP_OPTIONS,
    in_short,
)
from ansible_collections.farrier.web.plugins.module_utils.host import (
    Refused,
    check_disk,
    check_platform,
    check_port,
    check_python,
    check_root,
    check_units,
    missing_packages,
    needed_packages,
    power_of,
)


def plan_for(options):
    """The host's budget and the plan for this app there, as dicts. Raises Refused."""
    # Imported late: a host whose Python is too old for the sizing code is to hear that in one line.
    from ansible_collections.farrier.web.plugins.module_utils.host_plan import plan_beside_others

    budget, made = plan_beside_others(options)
    return budget.to_dict(), made.to_dict()


def doubts(options):
    """What a person should know and is free to want: one line each."""
    user = options["user"] or options["name"]
    how = power_of(user) if options["state"] == "present" else ""
    if not how:
        return []
    return [
        f"{options['prefix']}user: {user} {how}: whoever breaks into the app may become root; "
        f"leave {options['prefix']}user empty for a user of the app's own"
    ]


def look(options):
    """Everything that is refused here, in the order in which a person would mend it."""
    prefix = options["prefix"]
    check_platform()
    # Before a removal too, which stops what bears the name.
    check_units(options["name"], prefix)
    if options["state"] == "absent":
        return {"missing_packages": []}
    check_root(options["name"], options["root"], prefix)
    check_python(sys.version_info, options["python"], options["system_packages"], prefix)
    check_disk(options["root"] or f"/srv/{options['name']}", prefix)
    check_port(options["name"], options["listen"], prefix)
    budget, made = plan_for(options)
    missing = missing_packages(needed_packages(options))
    return {"budget": budget, "plan": in_short(made), "missing_packages": missing}


def main():
    """Look at the host, answer or refuse."""
    arguments = {**APP_OPTIONS, "listen": {"type": "dict", "default": {}}}
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    if os.geteuid() != 0:
        module.fail_json(msg="farrier.web needs root on the host: set become: true")
    try:
        found = look(module.params)
        for doubt in doubts(module.params):
            module.warn(doubt)
        module.exit_json(changed=False, **found)
    except Refused as refused:
        module.fail_json(msg=str(refused))


if __name__ == "__main__":
    main()
