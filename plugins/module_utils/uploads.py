# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller sent to the host: placed whole, and thrown away when no app needs it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

# The same places as in farrier/release/layout.py.
ETC = Path("/etc/farrier")
VAR = Path("/var/lib/farrier")
#: Seconds for which an upload may wait for the run that sent it, before no app has to name it.
YOUNG = 30 * 60
#: Seconds that the unit of a deploy takes to be gone after it has told its end.
SETTLING = 5


def place_parcel(parcel: dict) -> str:
    """Move what was sent to its place, whole or not at all; answers the place."""
    place = Path(parcel["place"])
    for _attempt in range(3):
        # A run that tidies up at this moment may take a folder away that is still empty.
        with contextlib.suppress(FileNotFoundError):
            _place(place, parcel["sent"], parcel["folder_mode"])
            break
    else:
        _place(place, parcel["sent"], parcel["folder_mode"])
    return str(place)


def _place(place: Path, sent: str, folder_mode: int) -> None:
    if place.exists():
        # Young again: no other run may take away what this one is about to use.
        os.utime(place)
        return
    VAR.mkdir(mode=0o755, exist_ok=True)
    # Source is for root's eyes; certificates are read by the app's own user.
    place.parent.mkdir(mode=folder_mode, exist_ok=True)
    # A name of its own: another run may be placing the same file.
    descriptor, sibling = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    os.close(descriptor)
    try:
        shutil.copyfile(sent, sibling)
        Path(sibling).chmod(0o644)
        Path(sibling).replace(place)
    finally:
        Path(sibling).unlink(missing_ok=True)


def time_of(place: str) -> int:
    """When the file at ``place`` was last taken up by a run, in nanoseconds; 0 where there is none."""
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0


def forget_parcels(places: dict) -> None:
    """Take back what this run placed and nobody took up since, and the folders that it left empty.

    ``places`` holds the time of each as it was when this run had placed it.
    """
    for place, since in places.items():
        if time_of(place) == since:
            _forget(Path(place))


def _forget(place: Path) -> None:
    place.unlink(missing_ok=True)
    for folder in (place.parent, VAR):
        # One that is not empty, or that another run just removed, is none of ours.
        with contextlib.suppress(OSError):
            folder.rmdir()


def deploy_under_way(patience: float = SETTLING) -> bool:
    """Whether a deploy of any app runs on this host, once those that just ended had time to be gone."""
    command = ["systemctl", "list-units", "--no-legend", "--plain", "--all", "farrier-deploy-*.service"]
    until = time.monotonic() + patience
    while True:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        states = {line.split()[2] for line in answer.stdout.splitlines() if len(line.split()) > 2}
        if not states & {"active", "activating", "reloading", "deactivating"}:
            return False
        if time.monotonic() >= until:
            return True
        time.sleep(0.1)


def drop_unused() -> None:
    """Uploads that no app's state names, neither the one that is nor one that is being made.

    A young one may be waiting for a run that has not written down yet what it wants.
    """
    wanted = "".join(_text(path) for path in ETC.glob("*/*.json"))
    oldest = time.time() - YOUNG
    for path in (*VAR.glob("uploads/*"), *VAR.glob("ca/*")):
        if str(path) not in wanted and time_of(str(path)) < oldest * 1e9:
            _forget(path)


def _text(path: Path) -> str:
    """What a file holds; nothing if its app is removed at this moment."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
