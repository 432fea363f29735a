# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller sent to the host: placed whole, and thrown away when no app needs it."""

from __future__ import annotations

import shutil
from pathlib import Path

# The same places as in farrier/release/layout.py.
ETC = Path("/etc/farrier")
VAR = Path("/var/lib/farrier")


def place_parcel(parcel: dict) -> str:
    """Move what was sent to its place, whole or not at all; answers the place."""
    place = Path(parcel["place"])
    if place.exists():
        return str(place)
    VAR.mkdir(mode=0o755, exist_ok=True)
    # Source is for root's eyes; certificates are read by the app's own user.
    place.parent.mkdir(mode=parcel["folder_mode"], exist_ok=True)
    sibling = place.with_name(f".{place.name}.new")
    try:
        shutil.copyfile(parcel["sent"], sibling)
        sibling.chmod(0o644)
        sibling.replace(place)
    finally:
        sibling.unlink(missing_ok=True)
    return str(place)


def forget_parcels(places: list[str]) -> None:
    """Take back what this run placed, and the folders that it left empty."""
    for place in map(Path, places):
        place.unlink(missing_ok=True)
        for folder in (place.parent, VAR):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def drop_unused() -> None:
    """Uploads that no app's state names, neither the one that is nor one that is being made."""
    wanted = "".join(path.read_text(encoding="utf-8") for path in ETC.glob("*/*.json"))
    unused = [path for path in (*VAR.glob("uploads/*"), *VAR.glob("ca/*")) if str(path) not in wanted]
    forget_parcels([str(path) for path in unused])
