"""The table in docs/sizing.md is what the plan says today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_page_holds_the_table_that_its_command_prints() -> None:
    command = [sys.executable, "-m", "farrier.sizing.tiers"]
    table = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    page = (ROOT / "docs" / "sizing.md").read_text()
    held = page.split("<!-- tiers -->")[1].split("<!-- end of tiers -->")[0].strip()
    assert held == table, "put what `python -m farrier.sizing.tiers` prints between the marks"
