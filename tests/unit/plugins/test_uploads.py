"""What was sent to a host stays as long as any run needs it, and no longer."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.farrier.web.farrier.release import state
from ansible_collections.farrier.web.farrier.release.layout import Layout
from ansible_collections.farrier.web.plugins.module_utils import uploads
from ansible_collections.farrier.web.plugins.modules import app as app_module


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's folders, and one file that was sent."""
    monkeypatch.setattr(uploads, "ETC", tmp_path / "etc")
    monkeypatch.setattr(uploads, "VAR", tmp_path / "var")
    (tmp_path / "etc" / "shop").mkdir(parents=True)
    (tmp_path / "sent").write_text("source")
    return tmp_path


def _parcel(host: Path, name: str = "a.tar.gz") -> dict[str, Any]:
    place = str(host / "var" / "uploads" / name)
    return {"place": place, "sent": str(host / "sent"), "folder_mode": 0o700}


def _grow_old(place: str) -> None:
    past = time.time() - uploads.YOUNG - 60
    os.utime(place, (past, past))


def test_what_a_failed_run_placed_goes_with_the_folders_that_it_made(host: Path) -> None:
    place = uploads.place_parcel(_parcel(host))
    assert Path(place).read_text() == "source"
    uploads.forget_parcels({place: uploads.time_of(place)})
    assert not (host / "var").exists()


def test_what_another_run_took_up_meanwhile_stays(host: Path) -> None:
    place = uploads.place_parcel(_parcel(host))
    placed = {place: uploads.time_of(place)}
    time.sleep(0.01)
    uploads.place_parcel(_parcel(host))
    uploads.forget_parcels(placed)
    assert Path(place).exists()


def test_an_upload_that_no_app_names_yet_is_given_time(host: Path) -> None:
    young = uploads.place_parcel(_parcel(host, "young"))
    named = uploads.place_parcel(_parcel(host, "named"))
    old = uploads.place_parcel(_parcel(host, "old"))
    (host / "etc" / "shop" / "wanted.json").write_text(f'{{"path": "{named}"}}')
    _grow_old(named)
    _grow_old(old)
    uploads.drop_unused()
    assert Path(young).exists() and Path(named).exists() and not Path(old).exists()


def test_a_run_that_finds_the_lock_taken_leaves_what_it_sent(tmp_path: Path) -> None:
    layout = Layout("shop", tmp_path)
    with state.locked(layout, "first"):
        assert app_module.HELD in state.held_by(layout)


def test_a_deploy_that_runs_is_seen_and_one_that_is_over_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = tmp_path / "systemctl"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for told, expected in (
        ("farrier-deploy-shop.service loaded active running Farrier deploys shop", True),
        ("farrier-deploy-shop.service loaded deactivating stop-sigterm Farrier deploys shop", True),
        ("farrier-deploy-shop.service loaded failed failed Farrier deploys shop", False),
        ("", False),
    ):
        answer.write_text(f"#!/bin/sh\necho '{told}'\n")
        answer.chmod(0o755)
        assert (
            subprocess.run(["systemctl"], capture_output=True, text=True, check=True).stdout.strip() == told
        )
        assert uploads.deploy_under_way(patience=0) is expected
