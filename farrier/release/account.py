"""The user and the group that an app runs as."""

from __future__ import annotations

import grp
import pwd
import subprocess
from dataclasses import dataclass

from ..errors import FarrierError
from .spec import Spec


@dataclass(frozen=True)
class Account:
    """Who builds and serves the app."""

    user: str
    uid: int
    gid: int


def find(spec: Spec) -> Account | None:
    """The account, or None where the user or the group is still to be made."""
    try:
        return Account(spec.user, pwd.getpwnam(spec.user).pw_uid, grp.getgrnam(spec.group).gr_gid)
    except KeyError:
        return None


def comment(spec: Spec) -> str:
    """The comment field by which a user that we made is known again when state.json is gone."""
    return f"farrier app {spec.name}"


def is_ours(spec: Spec) -> bool:
    """True if a run of this app made its user, be it before data was kept."""
    try:
        return pwd.getpwnam(spec.user).pw_gecos == comment(spec)
    except KeyError:
        return False


def problem(spec: Spec, ours: bool) -> str | None:
    """Why `spec`'s user cannot be taken. `ours`: state.json says that we made it."""
    try:
        found = pwd.getpwnam(spec.user)
    except KeyError:
        return None
    if found.pw_uid == 0:
        return f"user: {spec.user} is root by another name; allowed: an account without privileges"
    # A name that somebody chose is theirs to share; a name that only follows from the app's is not.
    if not ours and "user" not in spec.given and found.pw_dir != spec.root:
        return (
            f"user: {spec.user} exists already with the home {found.pw_dir}; "
            f"name it with user: {spec.user} if the app is to run as it, or choose another name"
        )
    return None


def ensure(spec: Spec) -> tuple[Account, list[str]]:
    """Makes what is missing; answers the account and what was made (``user``, ``group``)."""
    made = []
    try:
        grp.getgrnam(spec.group)
    except KeyError:
        _run("groupadd", "--system", spec.group)
        made.append("group")
    try:
        pwd.getpwnam(spec.user)
    except KeyError:
        _run("useradd", "--system", "--gid", spec.group, "--no-create-home", "--home-dir", spec.root,
             "--shell", "/usr/sbin/nologin", "--comment", comment(spec), spec.user)  # fmt: skip
        made.append("user")
    found = find(spec)
    if found is None:
        raise FarrierError(f"user: {spec.user} was made but this host does not list it", 1)
    return found, made


def remove(user: str | None, group: str | None) -> None:
    """Removes the user and group that we made; what is gone already is fine."""
    if user and _exists(pwd.getpwnam, user):
        _run("userdel", user)
    # userdel takes a group of the same name with it.
    if group and _exists(grp.getgrnam, group):
        _run("groupdel", group)


def _exists(look_up: object, name: str) -> bool:
    try:
        look_up(name)  # type: ignore[operator]
    except KeyError:
        return False
    return True


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise FarrierError(f"{argv[0]}: {' '.join(done.stderr.split())}", 1)
