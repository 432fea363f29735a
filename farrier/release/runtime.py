"""Farrier itself on the host: the wheel this code came in, unpacked, with a launcher."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import FarrierError
from . import files
from .files import File
from .layout import ETC, LAUNCHER, RUNTIME

_WHEEL = re.compile(r"farrier-([^-]+)-py3-none-any\.whl")
_LAUNCHER = """\
#!/usr/bin/python3 -I
# Written by farrier: runs version {version} under the host's own Python, nicely: what serves comes first.
import os
import sys

os.nice(max(0, 10 - os.nice(0)))
sys.path.insert(0, "{folder}")
from farrier.cli import main

sys.exit(main())
"""


@dataclass(frozen=True)
class Runtime:
    """A version of farrier and the wheel that holds it (None: not packed yet, as in a checkout)."""

    version: str
    wheel: Path | None

    @property
    def folder(self) -> Path:
        return RUNTIME / self.version

    @property
    def placed_wheel(self) -> Path:
        return self.folder / f"farrier-{self.version}-py3-none-any.whl"

    @property
    def is_placed(self) -> bool:
        # The folder is renamed into place whole: where the wheel is, the rest is.
        return self.placed_wheel.is_file()


def home() -> Path:
    """What is on ``sys.path`` for this code: a folder, or a wheel."""
    return Path(__file__).absolute().parents[2]


def find(wheel: str | None) -> Runtime:
    """The runtime to use: the wheel that is named, else the one we run from, else our own files packed."""
    place = Path(wheel) if wheel else home()
    if place.suffix == ".whl":
        match = _WHEEL.fullmatch(place.name)
        if match is None or not place.is_file():
            raise FarrierError(f"runtime: given {place}; allowed: a wheel farrier-VERSION-py3-none-any.whl")
        return Runtime(match[1], place)
    beside = sorted(place.glob("farrier-*-py3-none-any.whl"))
    if beside and (match := _WHEEL.fullmatch(beside[-1].name)):
        return Runtime(match[1], beside[-1])
    return Runtime(_packed_version(_content(place / "farrier")), None)


def place(runtime: Runtime) -> bool:
    """Unpacks the runtime under /usr/local/lib/farrier. True if it had to."""
    if runtime.is_placed:
        return False
    if runtime.placed_wheel != runtime.wheel:
        scratch = RUNTIME / f".{runtime.version}.new"
        files.delete(scratch)
        scratch.mkdir(parents=True)
        wheel = scratch / runtime.placed_wheel.name
        if runtime.wheel is None:
            pack(home() / "farrier", wheel)
        else:
            wheel.write_bytes(runtime.wheel.read_bytes())
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        files.delete(runtime.folder)
        scratch.rename(runtime.folder)
        # An unchanged apply is mostly start-up: bytecode halves it.
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(runtime.folder)], check=False)
    return True


def point(runtime: Runtime) -> None:
    """Makes /usr/local/bin/farrier run this version: last of all, when its first release serves."""
    launcher = File(LAUNCHER, _LAUNCHER.format(version=runtime.version, folder=runtime.folder), 0o755)
    if not launcher.is_there():
        files.write(launcher.path, launcher.text, launcher.mode)


def prune(needed: set[str]) -> None:
    """Removes versions that no release of this app and no launcher, app or running process names."""
    kept = needed | {path.name for path in (home(), find(None).folder)}
    for app in ETC.glob("*/app.json"):
        root = Path((files.read_json(app) or {}).get("root") or f"/srv/{app.parent.name}")
        for release in root.glob("releases/*/release.json"):
            kept.add(str((files.read_json(release) or {}).get("runtime", "")))
    launcher = LAUNCHER.read_text() if LAUNCHER.is_file() else ""
    for entry in RUNTIME.iterdir():
        if (entry / "farrier").is_dir() and entry.name not in kept and entry.name not in launcher:
            files.delete(entry)


def command(runtime: Runtime) -> tuple[list[str], dict[str, str]]:
    """How a transient unit starts this very code, and the environment that it needs."""
    folder = runtime.folder if runtime.is_placed else home()
    return [sys.executable, "-m", "farrier"], {"PYTHONPATH": str(folder)}


def pack(package: Path, wheel: Path) -> None:
    """Writes `package` (a folder ``farrier``) as a wheel: the same files give the same bytes."""
    content = _content(package)
    version = _packed_version(content)
    info = f"farrier-{version}.dist-info"
    content[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: farrier\nVersion: {version}\nRequires-Python: >=3.10\n"
        "Requires-Dist: gunicorn>=27,<28\nProvides-Extra: uvicorn\nProvides-Extra: gevent\n"
        'Requires-Dist: uvicorn>=0.30; extra == "uvicorn"\n'
        'Requires-Dist: gevent>=24.10.1,<28; extra == "gevent"\n'
    ).encode()
    content[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: farrier\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    content[f"{info}/entry_points.txt"] = b"[console_scripts]\nfarrier = farrier.cli:main\n"
    rows = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)


def _content(package: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for folder, names, leaves in os.walk(package):
        names[:] = sorted(name for name in names if name != "__pycache__")
        for leaf in sorted(leaves):
            path = Path(folder, leaf)
            if path.suffix in (".py", ".typed", ".json", ".sh", ".txt"):
                found[f"farrier/{path.relative_to(package)}"] = path.read_bytes()
    return found


def _packed_version(content: dict[str, bytes]) -> str:
    from .. import __version__

    total = hashlib.sha256(b"".join(name.encode() + b"\0" + data for name, data in content.items()))
    return __version__ if "+" in __version__ else f"{__version__}+g{total.hexdigest()[:10]}"


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
