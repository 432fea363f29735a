"""The guestbook: what a visitor and a deploy rely on."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def client(load) -> Any:
    return load("flask_app", "guestbook").app.test_client()


def test_an_entry_is_kept_and_shown_escaped(client) -> None:
    signed = client.post("/sign", data={"name": "Ada", "message": "<b>hello</b>"})
    assert (signed.status_code, signed.headers["location"]) == (303, "/")
    page = client.get("/").text
    assert "&lt;b&gt;hello" in page
    assert f"Worker {os.getpid()} answered" in page
    assert client.get("/entries").json == [{"id": 1, "name": "Ada", "message": "<b>hello</b>"}]


@pytest.mark.parametrize("form", [{}, {"name": "Ada"}, {"name": "a" * 81, "message": "x"}])
def test_a_bad_entry_is_refused(client, form: dict[str, str]) -> None:
    assert client.post("/sign", data=form).status_code == 400
    assert client.get("/entries").json == []


def test_threads_write_side_by_side(load) -> None:
    app = load("flask_app", "guestbook").app

    def sign() -> None:
        for _ in range(5):
            app.test_client().post("/sign", data={"name": "n", "message": "m"})

    threads = [threading.Thread(target=sign) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(app.test_client().get("/entries").json) == 40


def test_readiness_fails_while_the_guestbook_cannot_be_read(load, tmp_path: Path) -> None:
    guestbook = load("flask_app", "guestbook")
    guestbook.ready()
    (tmp_path / "data" / "guestbook.db").write_bytes(b"not a database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        guestbook.ready()


@pytest.mark.parametrize("path", ["/wait?ms=1", "/spin?ms=1"])
def test_requests_of_known_cost_answer_and_are_bounded(client, path: str) -> None:
    assert client.get(path).json["pid"] == os.getpid()
    assert client.get(path.replace("=1", "=10001")).status_code == 400
    assert client.get(path.replace("=1", "=-1")).status_code == 400
