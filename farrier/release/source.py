"""Fetching an app's code: an uploaded archive, or a git ref at exactly one commit."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import FarrierError
from . import command, files
from .account import Account
from .events import bare
from .layout import Layout
from .spec import Source, Spec

GIT_TIMEOUT = 300.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(spec: Spec, layout: Layout) -> str:
    """What exactly the source is now: ``sha256:…``, ``commit:…`` or ``requirement:…``.

    For git this asks the remote which commit the ref names; raises FarrierError in one line when the
    remote does not answer, refuses the key, or has no such ref.
    """
    source = spec.source
    if source.type == "archive":
        return f"sha256:{source.sha256}"
    if source.type == "requirement":
        return f"requirement:{bare(source.requirement or '')}"
    if _COMMIT.fullmatch(source.ref):
        return f"commit:{source.ref}"
    with _git_env(source, layout, spec.installer_env) as env:
        ref = source.ref
        out = _git(["ls-remote", "--", bare(source.repo or ""), ref, f"{ref}^{{}}"], env, source)
    found = {name: commit for commit, _, name in (line.partition("\t") for line in out.splitlines())}
    # An annotated tag names a tag object; ^{} is the commit behind it.
    for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", f"{ref}^{{}}", ref):
        if name in found:
            return f"commit:{found[name]}"
    raise FarrierError(
        f"source.ref: given {ref}, which {bare(source.repo or '')} does not have; "
        "allowed: a branch, a tag or a whole commit id of 40 digits"
    )


def check_archive(source: Source) -> None:
    """Raises FarrierError unless the uploaded archive is there and is the one that was meant."""
    path = Path(source.path or "")
    if not path.is_file():
        raise FarrierError(f"source.path: {path} is not on this host; upload it first")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != source.sha256:
        raise FarrierError(f"source.sha256: given {source.sha256}, but {path} is {digest.hexdigest()}")


def fetch(
    spec: Spec, layout: Layout, identity: str, src: Path, account: Account, say: Callable[[str], None]
) -> None:
    """Fills `src`, which belongs to the app's user. What a killed run left there is thrown away."""
    files.delete(src)
    src.mkdir(mode=0o755)
    os.chown(src, account.uid, account.gid)
    if spec.source.type == "archive":
        check_archive(spec.source)
        _unpack(Path(spec.source.path or ""), src, account)
    elif spec.source.type == "git":
        _check_out(spec, layout, identity.removeprefix("commit:"), src, account, say)


def _unpack(archive: Path, src: Path, account: Account) -> None:
    # tar as the app's user: an archive with .. or links can only harm what that user may write.
    # --touch: an archive from the controller has one time for all files, and browsers cache by these times.
    with archive.open("rb") as stream:
        command.run(
            ["tar", "-xzf", "-", "--no-same-owner", "--no-same-permissions", "--no-overwrite-dir", "--touch"],
            account=account, cwd=src, stdin=stream.fileno(), what="unpacking the source",
        )  # fmt: skip
    inner = list(src.iterdir())
    # An archive of one folder (as forges make them) is that folder.
    if len(inner) == 1 and inner[0].is_dir() and not inner[0].is_symlink() and not _is_code(inner[0]):
        _lift(inner[0], src)


def _is_code(folder: Path) -> bool:
    # A forge's folder bears a version or a commit (shop-1.2), which no importable name can.
    return (folder / "__init__.py").exists() or folder.name.isidentifier()


def _lift(folder: Path, src: Path) -> None:
    scratch = src.with_name(".lifted")
    folder.rename(scratch)
    src.rmdir()
    scratch.rename(src)


def _check_out(
    spec: Spec, layout: Layout, commit: str, src: Path, account: Account, say: Callable[[str], None]
) -> None:
    source, repo = spec.source, bare(spec.source.repo or "")
    with _git_env(source, layout, spec.installer_env) as env:
        _git(["init", "--quiet", str(src)], env, source)
        here = ["-C", str(src)]
        try:
            _git([*here, "fetch", "--quiet", "--depth=1", repo, commit], env, source)
        except FarrierError:
            # Old servers give out only what a ref names: take everything, then the commit.
            say("the server does not give out single commits; fetching all of it")
            _git(
                [*here, "fetch", "--quiet", "--tags", repo, "+refs/*:refs/remotes/all/*"],
                env,
                source,
            )
        _git([*here, "-c", "advice.detachedHead=false", "checkout", "--quiet", commit], env, source)
        if (src / ".gitmodules").exists():
            say("fetching submodules")
            _git([*here, "submodule", "update", "--quiet", "--init", "--recursive", "--depth=1"], env, source)
    for folder, names, leaves in os.walk(src):
        for name in (*names, *leaves):
            os.chown(Path(folder, name), account.uid, account.gid, follow_symlinks=False)
    os.chown(src, account.uid, account.gid)


def leftovers(name: str) -> str:
    """What a killed git of one app leaves in /run, as glob takes it: of `shop`, and nothing of `shop-api`."""
    return f"farrier-git-{name}-{'[a-z0-9_]' * 8}"


@contextlib.contextmanager
def _git_env(source: Source, layout: Layout, extra: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """git's environment: never asks a person, uses the deploy key and only that, remembers host keys."""
    hosts = layout.known_hosts
    ssh = ["ssh", "-oBatchMode=yes", "-oConnectTimeout=15", "-oStrictHostKeyChecking=accept-new"]
    with tempfile.TemporaryDirectory(prefix=f"farrier-git-{layout.name}-", dir="/run") as folder:
        # Before the app's first run its folder is not there (and in check mode never).
        known = hosts if hosts.parent.is_dir() else Path(folder, "known_hosts")
        ssh.append(f"-oUserKnownHostsFile={known}")
        if source.deploy_key:
            key = Path(source.deploy_key)
            if source.deploy_key.startswith("-----BEGIN "):
                key = Path(folder, "key")
                # ssh refuses a key whose last line does not end.
                files.write(key, source.deploy_key.rstrip("\n") + "\n", 0o600)
            elif not key.is_file():
                raise FarrierError(f"source.deploy_key: given {key}, which is not on this host")
            ssh += ["-oIdentitiesOnly=yes", "-oIdentityAgent=none", f"-i{key}"]
        yield command.base_env({
            **extra, "HOME": folder, "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": _askpass(source, Path(folder)), "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_SSH_COMMAND": " ".join(ssh),
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        })  # fmt: skip


# git asks "Username for 'https://HOST': " and "Password for 'https://USER@HOST': ".
ASKPASS = """\
#!/bin/sh
case "$1" in
*"://{host}'"* | *"@{host}'"*) ;;
*) exit 1 ;;
esac
case "$1" in
Username*) cat {folder}/name ;;
*) cat {folder}/password ;;
esac
"""


def _askpass(source: Source, folder: Path) -> str:
    """The program that tells git the name and password of an https address, so that no ``ps`` shows them."""
    address = urlsplit(source.repo or "")
    if address.scheme not in ("http", "https") or "@" not in address.netloc:
        return "/bin/false"
    userinfo, _, host = address.netloc.rpartition("@")
    name, _, password = userinfo.partition(":")
    if not re.fullmatch(r"[\w.:\[\]-]+", host):
        raise FarrierError(f"source.repo: {host} is no host's name")
    files.write(folder / "name", unquote(name), 0o600)
    files.write(folder / "password", unquote(password), 0o600)
    files.write(folder / "askpass", ASKPASS.format(host=host, folder=folder), 0o700)
    return str(folder / "askpass")


def _git(args: list[str], env: Mapping[str, str], source: Source) -> str:
    try:
        done = subprocess.run(
            ["git", *args], env=dict(env), capture_output=True, text=True, errors="replace",
            timeout=GIT_TIMEOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise FarrierError(
            "source.type: given git, but this host has no git; install the package git"
        ) from None
    except subprocess.TimeoutExpired:
        raise FarrierError(
            f"source.repo: {bare(source.repo or '')} did not answer in {GIT_TIMEOUT:.0f} s", 1
        ) from None
    if done.returncode:
        raise FarrierError(f"source.repo: {bare(source.repo or '')}: {_git_cause(done.stderr, source)}", 1)
    return done.stdout


def _git_cause(text: str, source: Source) -> str:
    """git says the cause first and excuses afterwards; ssh's own words are the cause where there are any."""
    if "Permission denied" in text:
        with_key = "with this deploy key" if source.deploy_key else "without a deploy key"
        return f"permission denied {with_key}"
    if "Host key verification failed" in text:
        return "the server's host key changed (seen before: known_hosts under /etc/farrier)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "ssh:", "error:", "Load key"))]
    return (telling or lines or ["git failed and said nothing"])[0][:300]
