# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that describe one app, shared by farrier.web.preflight and farrier.web.app."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of one app; module_utils/app_options.py holds their types."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - >-
        Name of the app: of its units, its user, its folder below C(/srv).
    type: str
    required: true
  app:
    description:
      - >-
        What Gunicorn serves: C(module:callable), or a factory such as C(app.main:create_app(\)).
    type: str
    default: ""
  state:
    description:
      - Whether the app is served. V(absent) takes away everything that the app put on the host.
    type: str
    choices: [present, absent]
    default: present
  path:
    description:
      - A folder on the controller that holds the source. What git ignores there stays there. A relative
        one is beside the inventory, the playbook or the working directory.
      - Exactly one of O(path), O(git_repo) and O(requirement) is set.
    type: str
    default: ""
  git_repo:
    description:
      - A git repository that the host clones.
    type: str
    default: ""
  git_ref:
    description:
      - A branch, a tag or a commit of O(git_repo).
    type: str
    default: HEAD
  git_deploy_key:
    description:
      - The text of a private key that may read O(git_repo).
    type: str
    default: ""
  requirement:
    description:
      - A package from an index that holds the app, such as C(example==1.2).
    type: str
    default: ""
  requirements:
    description:
      - The file in the source that says what to install. By default the first of C(uv.lock),
        C(poetry.lock), C(requirements.txt) and C(pyproject.toml) that is there.
    type: str
    default: ""
  extra_requirements:
    description:
      - Packages to install beside what the source asks for, such as C(psycopg[binary]>=3.1).
    type: list
    elements: str
    default: []
  python:
    description:
      - >-
        The Python of the app: a version such as V(3.12), or the path of an interpreter. By default the
        host's own.
    type: str
    default: ""
  system_packages:
    description:
      - Debian packages that the app needs, such as C(libpq5).
    type: list
    elements: str
    default: []
  installer:
    description:
      - What fills the venv. V(auto) takes uv where the memory allows it.
    type: str
    choices: [auto, uv, pip]
    default: auto
  installer_env:
    description:
      - Environment of the installer and of git, such as C(PIP_INDEX_URL) or C(HTTPS_PROXY). Nothing is
        inherited.
    type: dict
    default: {}
  ca_bundle:
    description:
      - A PEM file on the controller with the certificates that the installer and git are to trust on the
        host.
    type: str
    default: ""
  override_gunicorn:
    description:
      - Install a Gunicorn that farrier can drive over one that the app's lock pins.
    type: bool
    default: false
  pythonpath:
    description:
      - Folders in the source that are put on the import path, such as C(src).
    type: list
    elements: str
    default: []
  chdir:
    description:
      - The folder in the source in which the app starts.
    type: str
    default: ""
  bind:
    description:
      - >-
        Where the app listens: C(HOST:PORT), a port, or C(unix:/run/NAME.sock). By default only the host
        itself reaches it.
    type: str
    default: "127.0.0.1:8000"
  user:
    description:
      - The user who runs the app. By default one of the app's name, who is made.
    type: str
    default: ""
  group:
    description:
      - The group of the app's files and processes. By default the user's.
    type: str
    default: ""
  root:
    description:
      - The folder of the releases. By default C(/srv/NAME).
    type: str
    default: ""
  env:
    description:
      - Environment of the app. Values are kept from logs and from other users of the host.
    type: dict
    default: {}
  env_files:
    description:
      - Files of C(NAME=value) lines, in the source or absolute on the host, read into the environment.
    type: list
    elements: str
    default: []
  shared:
    description:
      - Files and folders in the source that outlive a release, such as C(uploads).
    type: list
    elements: str
    default: []
  build_commands:
    description:
      - Commands run in a new release before it starts, such as C(python manage.py collectstatic
        --noinput).
    type: list
    elements: str
    default: []
  migrate_commands:
    description:
      - Commands run once, after the build and before the new release starts, such as C(python manage.py
        migrate).
    type: list
    elements: str
    default: []
  ready:
    description:
      - The app's own readiness checks, C(module:function), run before a worker counts as ready.
    type: list
    elements: str
    default: []
  health_path:
    description:
      - Where the health answers are. Empty turns them off.
    type: str
    default: /health
  settings:
    description:
      - What a person chose of Gunicorn's and farrier's settings, by their own names, such as C(workers),
        C(timeout) or C(worker_class).
      - All others come from the plan.
    type: dict
    default: {}
  memory:
    description:
      - The memory that the app may plan with, such as V(300MiB). By default the host's, less what its other
        apps are expected to take where this one would not fit beside them otherwise.
    type: str
    default: ""
  cpus:
    description:
      - The CPUs that the app may plan with, such as V(0.5). By default what the host has.
    type: str
    default: ""
  database:
    description:
      - >-
        The database that the app talks to: the plan sizes the pools by it.
    type: dict
    default: {}
    suboptions:
      max_connections:
        description:
          - Connections that the database takes in all.
        type: int
      reserved_connections:
        description:
          - Connections that are kept for others than this app.
        type: int
      memory:
        description:
          - Memory that the database takes on this same host, such as V(128MiB).
        type: str
  workload:
    description:
      - What is known about the app. What is left out is measured.
    type: dict
    default: {}
    suboptions:
      kind:
        description:
          - What requests spend their time on.
        type: str
        choices: [io, cpu, mixed, async]
      framework:
        description:
          - The framework, where it cannot be seen from the packages.
        type: str
        choices: [django, flask, fastapi]
      app_memory:
        description:
          - Memory of one process after a warm-up, such as V(148MiB).
        type: str
      request_memory:
        description:
          - Memory that one request takes while it runs, such as V(2MiB).
        type: str
      connection_memory:
        description:
          - Memory that one open connection takes in an async worker, such as V(64KiB).
        type: str
      boot_seconds:
        description:
          - Seconds from the start of a worker until it serves.
        type: float
      preload_safe:
        description:
          - Whether the app may be imported before workers are forked.
        type: bool
  config_file:
    description:
      - The app's own C(gunicorn.conf.py), in the source or absolute on the host. Its hooks are called,
        its settings count where O(settings) says nothing.
    type: str
    default: ""
  strategy:
    description:
      - How one release follows another. V(auto) lets the plan choose by the memory that is free, and each
        can be forced. V(reload) is for a change of settings only.
    type: str
    choices: [auto, overlap, rolling, queue, reload]
    default: auto
  weight:
    description:
      - This app's part of the host's memory and CPU relative to the other apps there, from V(1) to V(1000).
        It counts where they do not all fit as each would be alone.
    type: int
    default: 100
  measure:
    description:
      - Whether a new release is measured on the host before it serves, and how. The plan stands on what came
        of it. A release that cannot be measured is deployed all the same, with a warning.
    type: dict
    default: {}
    suboptions:
      enabled:
        description:
          - Whether it is measured at all, by default V(true).
        type: bool
      requests:
        description:
          - 'What it is asked, such as V(GET /products) or V(POST /cart {"id": 1}), by default V(GET /).'
        type: list
        elements: str
      headers:
        description:
          - 'What is sent with each request, such as C(Host: shop.example) for an app that serves its own
            hosts only.'
        type: list
        elements: str
      seconds:
        description:
          - Seconds that it may take, by default 20, and less for an app that boots quickly.
        type: int
  guard:
    description:
      - How long a new release is watched after it took over, and what turns it back by itself. The next
        host waits for it.
    type: dict
    default: {}
    suboptions:
      seconds:
        description:
          - Seconds for which it is watched, by default 30. V(0) is not at all.
        type: float
      errors:
        description:
          - The share of responses of 500 and above that is too many, by default 0.05.
        type: float
      latency:
        description:
          - How many times as slow as the release before is too slow, by default 3.
        type: float
      requests:
        description:
          - Fewer responses than this say nothing, by default 20.
        type: int
      restarts:
        description:
          - So many restarts or crashed workers are too many, by default 1.
        type: int
  notify:
    description:
      - Who is told on the host how a deploy or a rollback went. The address is a secret.
    type: dict
    default: {}
    suboptions:
      webhook:
        description:
          - An http or https address that takes JSON.
        type: str
      command:
        description:
          - A command for C(/bin/sh), run as the app's user.
        type: str
  retry_bad:
    description:
      - Whether a release that was turned back before may be tried again.
    type: bool
    default: false
  migrate_on:
    description:
      - Which hosts of the play run O(migrate_commands). V(first) is the first that comes to it, before its
        own gate. The others wait for it and go on only if it did well. V(each) is every host, V(never)
        none.
      - Counted are the hosts of the play that serve an app of this name, in all batches of C(serial) and
        within C(--limit).
    type: str
    choices: [first, each, never]
    default: first
  set_up:
    description:
      - Whether the host is looked at and given the packages that it lacks first. V(false) takes only hosts
        that serve the app already, as C(playbooks/deploy.yml) does.
    type: bool
    default: true
  start_timeout:
    description:
      - Seconds until a new release that is not ready counts as failed. V(0) allows 30 s and five times
        what its workers take to boot.
    type: int
    default: 0
  keep_releases:
    description:
      - How many releases stay to go back to.
    type: int
    default: 3
  keep_data:
    description:
      - With O(state=absent), leave the shared files where they are.
    type: bool
    default: false
  prefix:
    description:
      - What messages put before the name of an option, for a role whose variables have a prefix.
    type: str
    default: ""
"""
