"""The app's own data, ``shared/``: whose it is, what was there before us, and giving it back."""

from __future__ import annotations

import contextlib
import os
import pwd
from typing import TYPE_CHECKING

from .layout import Layout

if TYPE_CHECKING:
    from .account import Account
    from .state import State

MODE = 0o750


def take(layout: Layout, state: State, account: Account, run: str) -> bool:
    """Makes ``shared/``, or makes one that was there the app's; True if something changed.

    Written down before it is done, so that a failure knows what to remove and what to give back.
    """
    if not layout.shared.is_dir():
        state.created["shared"] = run
        state.save(layout)
        layout.shared.mkdir()
        os.chown(layout.shared, account.uid, account.gid)
        layout.shared.chmod(MODE)
        return True
    found = layout.shared.stat()
    mode = found.st_mode & 0o7777
    if (found.st_uid, found.st_gid, mode) == (account.uid, account.gid, MODE):
        state.save(layout)
        return False
    state.run["shared"] = {
        "was": [found.st_uid, found.st_gid, mode],
        "now": [account.uid, account.gid],
    }
    state.save(layout)
    _hand_over(layout, found.st_uid, account.uid, account.gid, orphans=True)
    os.chown(layout.shared, account.uid, account.gid)
    layout.shared.chmod(MODE)
    return True


def give_back(layout: Layout, state: State) -> None:
    """Undoes :func:`take` for a folder that was there before the run."""
    record = state.run.get("shared")
    if not record or not layout.shared.is_dir():
        return
    (uid, gid, mode), (now, _) = record["was"], record["now"]
    _hand_over(layout, now, uid, gid, orphans=False)
    os.chown(layout.shared, uid, gid)
    layout.shared.chmod(mode)


def may_go(layout: Layout, state: State) -> bool:
    """True if a failed first deploy may delete the folder: it was made by this run, or holds nothing."""
    made_by = state.created.get("shared")
    if made_by and made_by == state.run.get("id"):
        return True
    return bool(made_by) and layout.shared.is_dir() and not any(layout.shared.iterdir())


def belongs_to(layout: Layout, user: str) -> bool:
    """True if data of `user` is in the folder: without the user, the next new account would get it."""
    try:
        return pwd.getpwnam(user).pw_uid == layout.shared.stat().st_uid
    except (KeyError, OSError):
        return False


def _hand_over(layout: Layout, before: int, uid: int, gid: int, orphans: bool) -> None:
    """Gives what belonged to `before` (and to nobody any more) to `uid` and `gid`; others' files stay theirs.

    By descriptor and without following links: the app's user can write here while we walk.
    """
    for _, folders, names, descriptor in os.fwalk(layout.shared.resolve(), follow_symlinks=False):
        for name in (*folders, *names):
            with contextlib.suppress(FileNotFoundError):
                owner = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_uid
                if owner == before or (orphans and not _is_known(owner)):
                    os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)


def _is_known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
