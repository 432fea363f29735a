#!/usr/bin/python
# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Reloads, rolls back or lists the releases of an app on a host
version_added: 0.2.0
description:
  - Asks the host's own release machine (C(farrier release)) for what it does by itself, without a source and
    without the variables of the app. The app was put there by M(farrier.web.app).
  - It runs in a unit of its own on the host, so that a lost connection does not stop it.
author:
  - The Farrier project (@farrier-web)
options:
  name:
    description:
      - Name of the app.
    type: str
    required: true
  action:
    description:
      - >-
        V(list): the releases that are kept, and how the last runs went.
      - >-
        V(show): who serves now.
      - >-
        V(reload): the settings files on the host are read anew, the workers are exchanged one by one (HUP).
        Code and environment stay what they are; M(farrier.web.app) brings another environment.
      - >-
        V(rollback): an earlier release serves again, by the same exchange as a new one. The guard does not
        watch it.
    type: str
    choices: [list, show, reload, rollback]
    default: list
  release:
    description:
      - >-
        With O(action=rollback): which release. An id as V(list) shows it, or its last part, which is the same
        on all hosts that built the same; an id of another host will do.
      - By default the one before the one that serves, past those that were turned back as bad.
      - Say it where several hosts are rolled back, so that a second run changes nothing.
    type: str
    default: ''
  force:
    description:
      - With O(action=rollback), serve a release that was turned back as bad all the same.
    type: bool
    default: false
  prefix:
    description:
      - What messages put before the name of an option, for a playbook whose variables have a prefix.
    type: str
    default: ''
  who:
    description:
      - Who asked, for the host's record. The controller fills it in.
    type: str
    default: ''
attributes:
  check_mode:
    support: full
    description: Says what would be reloaded, or which release would serve.
  diff_mode:
    support: partial
    description: A rollback shows which release goes and which comes.
seealso:
  - module: farrier.web.app
"""

EXAMPLES = r"""
- name: Go back to the release before
  farrier.web.release:
    name: shop
    action: rollback

- name: Go back to what was good on Friday, on all hosts
  farrier.web.release:
    name: shop
    action: rollback
    release: 20261113-151209-5d1c7a60

- name: Read the settings anew
  farrier.web.release:
    name: shop
    action: reload

- name: See what there is to go back to
  farrier.web.release:
    name: shop
  register: shop

- name: Show it
  ansible.builtin.debug:
    msg: "{{ shop.releases | map(attribute='id') }}"
"""

RETURN = r"""
release:
  description: The release that serves now.
  returned: always, of a check what would serve
  type: str
  sample: 20261113-151209-5d1c7a60
rollback:
  description: The release that a rollback would serve, if there is one.
  returned: with O(action=list)
  type: str
releases:
  description: The releases on the host, oldest first. V(active) serves; V(bad) says why one must not.
  returned: with O(action=list)
  type: list
  elements: dict
history:
  description: How the last runs went, oldest first.
  returned: with O(action=list) and O(action=show)
  type: list
  elements: dict
app:
  description: The app as it is on the host.
  returned: with O(action=show)
  type: dict
steps:
  description: What was done, in order.
  returned: with O(action=reload) and O(action=rollback)
  type: list
  elements: dict
url:
  description: Where the app answers, as seen from the host.
  returned: with O(action=show), O(action=reload) and O(action=rollback)
  type: str
"""

import json
import os
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

LAUNCHER = "/usr/local/bin/farrier"

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "action": {"type": "str", "choices": ["list", "show", "reload", "rollback"], "default": "list"},
    "release": {"type": "str", "default": ""},
    "force": {"type": "bool", "default": False},
    "prefix": {"type": "str", "default": ""},
    "who": {"type": "str", "default": ""},
}


class Refused(Exception):
    """One line: what is not so on this host, and what is there."""


def farrier(*command, who=""):
    """What ``farrier release`` answers. Raises Refused with its own line where it refuses or fails."""
    if not Path(LAUNCHER).exists():
        raise Refused("farrier is not on this host: run playbooks/site.yml there first")
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GUNICORN"))
    }
    # The name of whoever asked is what sudo would say, were they here.
    environment.update(LC_ALL="C.UTF-8", **({"SUDO_USER": who} if who else {}))
    done = subprocess.run(
        [LAUNCHER, "release", *command, "--json"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=environment,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        answer = {"failed": True, "msg": said[-1].removeprefix("farrier: ")}
    if answer.get("failed"):
        raise Refused(answer.get("msg") or f"farrier release {command[0]} failed and said nothing")
    return answer


def named(releases, given):
    """The release that is meant by an id, by the id of another host, or by the last part of one."""
    digest = given.rpartition("-")[2]
    exact = [one for one in releases if one["id"] == given]
    found = exact or [one for one in releases if one["id"].rpartition("-")[2] == digest]
    return found[-1] if found else None


def target_of(options, found):
    """The release that a rollback would serve, of what ``farrier release list`` found. Raises Refused."""
    served = [one for one in found["releases"] if one.get("served")]
    if not options["release"]:
        target = next((one for one in served if one["id"] == found.get("rollback")), None)
        if target is None:
            raise Refused(f"{options['name']}: no good release is kept on this host to go back to")
        return target
    target = named(served, options["release"])
    if target is None:
        kept = ", ".join(one["id"] for one in reversed(served)) or "none is kept"
        raise Refused(
            f"{options['prefix']}release: given {options['release']}, which {options['name']} does not "
            f"have on this host; allowed: {kept}"
        )
    if target.get("bad") and not options["force"] and not target.get("active"):
        raise Refused(
            f"{options['prefix']}release: {target['id']} is bad: {target['bad'].get('why')}; "
            "to serve it all the same, say force"
        )
    return target


def rollback(module, options):
    """Serve the earlier release, or say which it would be."""
    found = farrier("list", options["name"])
    target, active = target_of(options, found)["id"], found["release"]
    answer = {"changed": target != active, "release": target}
    if module._diff and answer["changed"]:
        header = f"release of {options['name']}"
        pair = {"before": f"{active}\n", "after": f"{target}\n"}
        answer["diff"] = [{"before_header": header, "after_header": header, **pair}]
    if module.check_mode or not answer["changed"]:
        return answer
    forced = ["--force"] if options["force"] else []
    done = farrier("rollback", options["name"], "--to", target, *forced, who=options["who"])
    return {**answer, **told(module, done)}


def reload(module, options):
    """Let the workers be exchanged one by one, or say that they would be."""
    if module.check_mode:
        shown = farrier("show", options["name"])
        return {"changed": True, "release": shown["release"], "url": shown["url"], "steps": []}
    return told(module, farrier("reload", options["name"], who=options["who"]))


def told(module, done):
    """Of what a run answers, what is for a person; the plan is on the host."""
    for warning in done.get("warnings") or []:
        module.warn(f"{module.params['name']}: {warning}")
    return {key: done[key] for key in ("changed", "release", "url", "steps") if key in done}


def listed(options):
    """The releases and the last runs."""
    found = farrier("list", options["name"])
    return {"changed": False, **{key: found[key] for key in ("release", "rollback", "releases", "history")}}


def shown(options):
    """The app as it is, and the last runs."""
    found = farrier("show", options["name"])
    answer = {"changed": False, "release": found["release"], "url": found["url"]}
    return {**answer, "history": found.pop("history", []), "app": found}


def main():
    """Do what was asked, answer with what came of it."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    if os.geteuid() != 0:
        module.fail_json(msg="farrier.web needs root on the host: set become: true")
    options = module.params
    try:
        if options["action"] == "rollback":
            answer = rollback(module, options)
        elif options["action"] == "reload":
            answer = reload(module, options)
        else:
            answer = listed(options) if options["action"] == "list" else shown(options)
    except Refused as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
