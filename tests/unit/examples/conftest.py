"""Each example is imported as Gunicorn imports it: with its own folder first on the path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str, str], ModuleType]]:
    """Imports a module of an example afresh, with its data in the test's own folder."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    before = set(sys.modules)

    def import_afresh(example: str, module: str) -> ModuleType:
        monkeypatch.syspath_prepend(EXAMPLES / example)
        return importlib.import_module(module)

    yield import_afresh
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
