"""A check that no other tool has: nothing of one machine or one network slips into the tree.

No host name of a package registry (where things are fetched from is the reader's choice, by their own
configuration), no absolute path of the machine that a file was written on, no private key.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from lab import checkout

# Each pattern is written so that it does not match itself.
_REGISTRIES = (
    r"py[p]i\.org", r"python[h]osted\.org", r"registry\.[n]pmjs\.org", r"proxy\.[g]olang\.org",
    r"(?:deb|security|ftp)\.[d]ebian\.org", r"snapshot\.[d]ebian\.org", r"archive\.[u]buntu\.com",
    r"registry-1\.[d]ocker\.io", r"index\.[d]ocker\.io", r"download\.[d]ocker\.com",
    r"galaxy\.[a]nsible\.com",
    r"rubygems\.[o]rg", r"crates\.[i]o\b", r"quay\.[i]o\b", r"ghcr\.[i]o\b", r"conda\.[a]naconda",
)  # fmt: skip
_RULES = (
    (re.compile("|".join(_REGISTRIES)), "names a package registry"),
    (
        re.compile(r"(?<![\w./~-])/(?:[w]ork/|[r]oot/(?:\w|\.[p]yenv)|home/(?!debian\b)[a-z]\w*/|[U]sers/\w)"),
        "holds a path of one machine",
    ),
    (re.compile(r"BEGIN [A-Z ]*[P]RIVATE KEY"), "holds a private key"),
)  # fmt: skip


def findings(root: Path = checkout.ROOT) -> list[str]:
    """One line for each place in the files that git knows or would add: `path:line: what is wrong`."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[str] = []
    for name in sorted(filter(None, listed.stdout.split("\0"))):
        path = root / name
        if path.is_file() and not path.is_symlink():
            found += [
                f"{name}:{number}: {fault}" for number, fault in faults(path.read_text(errors="replace"))
            ]
    return found


def faults(text: str) -> list[tuple[int, str]]:
    """Line numbers and what is wrong there."""
    rules = list(_RULES)
    # A short path, such as one of a container, is a word that files may well hold by themselves.
    if len(checkout.ROOT.parts) > 3:
        rules.append((re.compile(re.escape(str(checkout.ROOT))), "holds this checkout's path"))
    return [
        (number, fault)
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, fault in rules
        if pattern.search(line)
    ]
