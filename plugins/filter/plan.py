# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
short_description: The plan for an app of a given size, made on the controller
version_added: 0.1.0
description:
  - Answers with what farrier would set for that much memory and CPU, for a template or a choice of machine.
  - It asks no host, so it knows nothing of what else runs there; M(farrier.web.preflight) does.
author:
  - The Farrier project (@farrier-web)
positional: _input
options:
  _input:
    description: The memory that the app really gets, such as V(512MiB).
    type: str
    required: true
  cpus:
    description: The CPUs that it really gets; V(0.5) is half of one.
    type: float
    default: 1.0
  scope:
    description:
      - V(host) shares the memory with the system and a proxy, V(container) has it for itself.
      - V(given) says that what is given is the app's alone.
    type: str
    choices: [given, container, host]
    default: given
  settings:
    description: What a person chose, by the settings' own names.
    type: dict
    default: {}
  workload:
    description: What is known about the app, as in the option of the same name of M(farrier.web.app).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: How many workers would a small machine run?
  ansible.builtin.debug:
    msg: "{{ ('512MiB' | farrier.web.plan(cpus=1)).workers }}"

- name: See whether the app fits a machine before it is rented
  ansible.builtin.assert:
    that: plan.verdict.level != 'not viable'
    fail_msg: "{{ plan.verdict.why }}"
  vars:
    plan: "{{ '256MiB' | farrier.web.plan(cpus=0.5, workload={'framework': 'django'}) }}"
"""

RETURN = r"""
_value:
  description:
    - Each setting by its name, and C(fields) with the reasons, C(verdict) and C(warnings).
    - The same as C(farrier plan --json) prints.
  type: dict
  sample:
    workers: 2
    threads: 4
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.farrier.web.plugins.module_utils.sizing.budget import Budget
from ansible_collections.farrier.web.plugins.module_utils.sizing.plan import plan as make_plan
from ansible_collections.farrier.web.plugins.module_utils.sizing.settings import Settings
from ansible_collections.farrier.web.plugins.module_utils.sizing.units import SizingError
from ansible_collections.farrier.web.plugins.module_utils.sizing.workload import Workload


def plan(
    memory: str | int,
    cpus: float | str = 1.0,
    scope: str = "given",
    settings: Mapping[str, Any] | None = None,
    workload: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The plan as a dict. Raises AnsibleFilterError with one line about what was wrong."""
    chosen = dict(settings or {})
    try:
        profile = Workload.profile(**{"worker_class": chosen.get("worker_class"), **(workload or {})})
        made = make_plan(
            Budget.given(memory, cpus, scope), profile, Settings.from_mapping(chosen, "settings")
        )
    except (SizingError, TypeError) as refused:
        raise AnsibleFilterError(f"farrier.web.plan: {refused}") from refused
    return made.to_dict()


class FilterModule:
    """Filters of farrier.web."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {"plan": plan}
