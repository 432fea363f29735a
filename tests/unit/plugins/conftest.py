"""Plugins are imported as Ansible imports them: through its collection loader, from this checkout."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

ROOT = Path(__file__).resolve().parents[3]

_place = tempfile.TemporaryDirectory(prefix="farrier-collections-")
_namespace = Path(_place.name, "ansible_collections", "farrier")
_namespace.mkdir(parents=True)
(_namespace / "web").symlink_to(ROOT)
_AnsibleCollectionFinder(paths=[_place.name])._install()
