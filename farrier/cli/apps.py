"""The apps that farrier deployed to this host, and where their files are (docs/releases.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from farrier.errors import FarrierError

CONFIG = Path("/etc/farrier")
RUN = Path("/run/farrier")


def deployed() -> list[str]:
    """The names of the apps on this host, sorted."""
    return sorted(path.parent.name for path in CONFIG.glob("*/app.json"))


def spec(name: str) -> dict[str, Any]:
    """The wanted state of an app, as it was last applied."""
    path = CONFIG / name / "app.json"
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except PermissionError:
        raise FarrierError(f"{path}: only root may read it; try again with sudo", status=1) from None
    except (OSError, ValueError) as error:
        raise FarrierError(f"{path}: cannot be read ({error})", status=1) from None
    return value


def root(name: str) -> Path:
    """The folder that holds an app's releases."""
    return Path(spec(name).get("root") or f"/srv/{name}")


def plan_file(name: str) -> Path:
    """The plan of the release that serves."""
    return root(name) / "current" / "plan.json"


def chosen(name: str | None) -> list[str]:
    """The app that was asked for, or all of them; refused where there is none such."""
    apps = deployed()
    if name is None:
        return apps
    if name not in apps:
        raise FarrierError(f"{name}: no such app on this host; there are {', '.join(apps) or 'none'}")
    return [name]
