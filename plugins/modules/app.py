#!/usr/bin/python
# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: app
short_description: Serves one Python web app with Gunicorn, sized to the host
version_added: 0.1.0
description:
  - Brings one app to the wanted state with the host's own release machine (C(farrier release apply)).
    It builds a release beside the one that serves, checks that it imports, measures it, starts it,
    waits until it is healthy, switches without a failed request, and goes back if any of this fails.
  - The controller packs a local source folder and the runtime, and sends only what the host does not have.
  - A second run with the same source and options changes nothing.
  - Check mode and diff work on a host that has nothing yet.
author:
  - The Farrier project (@farrier-web)
options:
  runtime:
    description:
      - The version of the runtime that goes with the app. The controller fills it in.
    type: str
    default: ''
  parcels:
    description:
      - What was packed for the host, and where it is. The controller fills it in.
    type: dict
    default: {}
  secrets:
    description:
      - The values of O(env), O(installer_env), O(git_deploy_key) and O(notify), which Ansible is to show
        nowhere. The controller fills it in.
    type: str
    default: ''
  migrate_here:
    description:
      - Whether O(migrate_commands) run on this host. The controller fills it in, as O(migrate_on) says.
    type: bool
    default: true
  who:
    description:
      - Who asked, for the host's record. The controller fills it in.
    type: str
    default: ''
extends_documentation_fragment:
  - farrier.web.app
attributes:
  check_mode:
    support: full
    description: The runtime runs from Ansible's temporary folder, the host stays as it is.
  diff_mode:
    support: full
    description: Shows units, settings and the plan before and after. Secrets are masked.
seealso:
  - module: farrier.web.preflight
"""

EXAMPLES = r"""
- name: Serve the shop
  farrier.web.app:
    name: shop
    app: shop.main:create_app()
    path: ../shop
    bind: 0.0.0.0:8000
    settings:
      worker_class: uvicorn

- name: Serve what somebody else wrote, from a package index
  farrier.web.app:
    name: bin
    app: httpbin:app
    requirement: httpbin==0.10.2
    bind: 127.0.0.1:8001

- name: Serve a tag of a private repository
  farrier.web.app:
    name: shop
    app: shop.main:app
    git_repo: git@git.example.org:team/shop.git
    git_ref: v1.4
    git_deploy_key: "{{ lookup('ansible.builtin.file', 'deploy_key') }}"

- name: Leave nothing of it behind
  farrier.web.app:
    name: shop
    state: absent
"""

RETURN = r"""
steps:
  description: What was done, in order.
  returned: always
  type: list
  elements: dict
  sample:
    - {name: install, changed: true, seconds: 21.4, detail: "14 packages with uv"}
release:
  description: The release that serves now.
  returned: when O(state=present)
  type: str
plan:
  description:
    - The values of the plan in force and its verdict. Its warnings are shown as warnings.
    - With C(-vv) each value is shown with its reason. C(farrier explain) does so on the host.
  returned: when O(state=present)
  type: dict
url:
  description: Where the app answers, as seen from the host.
  returned: when O(state=present)
  type: str
  sample: http://127.0.0.1:8000
runtime:
  description: The version of farrier on the host.
  returned: always
  type: str
  sample: 0.1.0+h5d1c7a60f2
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.farrier.web.plugins.module_utils.app_options import (
    APP_OPTIONS,
    hidden_texts,
    in_variables,
    remote_source,
    spec_of,
    unsealed,
    warning_in_variables,
)
from ansible_collections.farrier.web.plugins.module_utils.uploads import (
    deploy_under_way,
    drop_unused,
    forget_parcels,
    place_parcel,
    time_of,
)

INTERNAL = {
    "runtime": {"type": "str", "default": ""},
    "parcels": {"type": "dict", "default": {}},
    "secrets": {"type": "str", "default": "", "no_log": True},
    "migrate_here": {"type": "bool", "default": True},
    "who": {"type": "str", "default": ""},
}

#: What farrier says of an app that another run works on (farrier/release/state.py).
HELD = "another run holds it"


def wanted(options, places):
    """The spec for ``farrier release apply``, with the places that the parcels have on this host."""
    if options["state"] == "absent":
        return spec_of(options, {}, who=options["who"])
    source = remote_source(options)
    if "source" in places:
        source = {
            "type": "archive",
            "path": places["source"],
            "sha256": options["parcels"]["source"]["sha256"],
        }
    # What is as by default is left out: no default of today looks like a choice tomorrow.
    here = {} if options["migrate_here"] else {"migrate_here": False}
    spec = spec_of(options, source, who=options["who"], **here)
    if "ca" in places:
        # pip, uv and git each have their own name for it; what a person chose stays.
        names = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO")
        spec["installer_env"] = {**dict.fromkeys(names, places["ca"]), **spec["installer_env"]}
    return spec


def apply(module, wheel, spec):
    """Run ``farrier release apply`` from the wheel that was sent, which places itself, or from there."""
    command = [sys.executable, "-m", "farrier", "release", "apply", "-", "--json"]
    command += ["--check"] * module.check_mode + ["--diff"] * bool(module._diff)
    home = wheel["sent"] or str(Path(wheel["place"]).parent)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GUNICORN"))
    }
    environment.update(PYTHONPATH=home, PYTHONDONTWRITEBYTECODE="1", LC_ALL="C.UTF-8")
    done = subprocess.run(
        command, input=json.dumps(spec), capture_output=True, text=True, check=False, cwd="/", env=environment
    )
    try:
        return json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        return {"failed": True, "msg": f"farrier release apply ended with {done.returncode}: {said[-1]}"}


def run(module, options):
    """Place what was sent, apply, tidy up."""
    parcels = dict(options["parcels"])
    wheel = parcels.pop("wheel")
    if module.check_mode:
        # Nothing moves: parcels are read where Ansible put them.
        places = {kind: parcel["sent"] or parcel["place"] for kind, parcel in parcels.items()}
        return apply(module, wheel, wanted(options, places))
    # What two runs send at once has one place: the second to come only finds it there.
    here = {kind for kind, parcel in parcels.items() if time_of(parcel["place"])}
    places = {kind: place_parcel(parcel) for kind, parcel in parcels.items()}
    placed = {places[kind]: time_of(places[kind]) for kind in places if kind not in here}
    answer = {"failed": True}
    try:
        answer = apply(module, wheel, wanted(options, places))
    finally:
        if not answer.get("failed"):
            drop_unused()
        elif HELD not in answer.get("msg", "") and not deploy_under_way():
            forget_parcels(placed)
    return answer


def never_set_up(options):
    """Why a host that does not serve the app yet is refused; empty where that is wanted."""
    known = Path("/etc/farrier", options["name"], "app.json")
    if options["set_up"] or options["state"] == "absent" or known.exists():
        return ""
    return (
        f"{options['prefix']}name: {options['name']} was never set up on this host; "
        "run playbooks/site.yml there first"
    )


def main():
    """Answer with what ``farrier release apply`` said."""
    module = AnsibleModule(argument_spec={**APP_OPTIONS, **INTERNAL}, supports_check_mode=True)
    if os.geteuid() != 0:
        module.fail_json(msg="farrier.web needs root on the host: set become: true")
    options = unsealed(module.params)
    if refused := never_set_up(options):
        module.fail_json(msg=refused)
    # Whatever a command of the app's own prints: what must not be seen is not.
    module.no_log_values.update(hidden_texts(options))
    try:
        answer = run(module, options)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'this host'}: {error.strerror}; nothing was switched")
    answer["runtime"] = module.params["runtime"]
    if answer.get("failed"):
        # The plan of a release that does not serve would only hide the line that says why.
        kept = {key: answer[key] for key in ("changed", "steps", "runtime") if key in answer}
        module.fail_json(
            msg=in_variables(answer.get("msg", "it failed and said nothing"), module.params), **kept
        )
    for warning in [*(answer.pop("warnings", None) or []), *(answer.get("plan") or {}).get("warnings", [])]:
        module.warn(warning_in_variables(warning, module.params))
    module.exit_json(**{key: value for key, value in answer.items() if key not in ("failed", "msg")})


if __name__ == "__main__":
    main()
