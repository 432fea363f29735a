# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: batches
short_description: How many hosts at once, for C(serial) of a play
version_added: 0.2.0
description:
  - Takes what a person gives on the command line, where a list comes as a text, and refuses in one line what
    C(serial) would stumble over.
author:
  - The Farrier project (@farrier-web)
positional: _input
options:
  _input:
    description: A number of hosts, a share of them such as V(25%), or a list of these; the last is repeated.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Serve the app, by default on one host after the other
  hosts: web
  serial: "{{ farrier_serial | default(1) | farrier.web.batches }}"
  roles:
    - role: farrier.web.gunicorn_app
"""

RETURN = r"""
_value:
  description: What C(serial) takes.
  type: list
  elements: raw
  sample: [1, 25%]
"""

import re
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

_ONE = re.compile(r"[1-9]\d*|[1-9]\d?%|100%")


def batches(given: object) -> list[int | str]:
    """A list for ``serial``. Raises AnsibleFilterError with what was given and what is allowed."""
    text = str(given).strip()
    parts = [part.strip(" \"'") for part in text.removeprefix("[").removesuffix("]").split(",")]
    if not all(_ONE.fullmatch(part) for part in parts) or text.startswith("[") != text.endswith("]"):
        raise AnsibleFilterError(
            f"farrier_serial: given {text}; allowed: a number of hosts, a share such as 25%, "
            'or a list of these such as [1, "25%"]'
        )
    return [part if part.endswith("%") else int(part) for part in parts]


class FilterModule:
    """Filters of farrier.web."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {"batches": batches}
