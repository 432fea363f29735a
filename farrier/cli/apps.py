"""The apps that farrier deployed to this host."""

from __future__ import annotations

import json
from pathlib import Path

from farrier.errors import FarrierError
from farrier.release.layout import ETC, Layout
from farrier.release.spec import Spec


def deployed() -> list[str]:
    """The names of the apps on this host, sorted. Raises FarrierError where only root may look."""
    names = []
    for folder in sorted(ETC.glob("*/")):
        try:
            if (folder / "app.json").exists():
                names.append(folder.name)
        except PermissionError:
            raise FarrierError(f"{folder}: only root may read it; try again with sudo", status=1) from None
    return names


def spec(name: str) -> Spec:
    """The wanted state of an app, as it was last applied."""
    path = ETC / name / "app.json"
    try:
        return Spec.from_mapping(json.loads(path.read_text()))
    except PermissionError:
        raise FarrierError(f"{path}: only root may read it; try again with sudo", status=1) from None
    except (OSError, ValueError) as error:
        raise FarrierError(f"{path}: cannot be read ({error})", status=1) from None


def layout(name: str) -> Layout:
    """Where an app's files are."""
    return Layout(name, Path(spec(name).root or f"/srv/{name}"))


def plan_file(name: str) -> Path:
    """The plan of the release that serves."""
    return layout(name).current / "plan.json"


def chosen(name: str | None) -> list[str]:
    """The app that was asked for, or all of them; refused where there is none such."""
    apps = deployed()
    if name is None:
        return apps
    if name not in apps:
        raise FarrierError(f"{name}: no such app on this host; there are {', '.join(apps) or 'none'}")
    return [name]
