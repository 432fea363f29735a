"""The link keeper: what a visitor and a deploy rely on."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient


@pytest.fixture
def client(load) -> Iterator[TestClient]:
    with TestClient(load("fastapi_app", "app.main").create_app()) as client:
        yield client


def test_a_link_is_kept_followed_counted_and_removed(client: TestClient) -> None:
    assert client.post("/links", json={"slug": "docs", "url": "https://example.com/docs"}).status_code == 201
    followed = client.get("/l/docs", follow_redirects=False)
    assert (followed.status_code, followed.headers["location"]) == (307, "https://example.com/docs")
    assert client.get("/links").json() == [
        {"slug": "docs", "url": "https://example.com/docs", "title": "", "visits": 1}
    ]
    assert client.delete("/links/docs").status_code == 204
    assert client.get("/l/docs").status_code == 404


def test_links_outlive_the_release_that_stored_them(load) -> None:
    create_app = load("fastapi_app", "app.main").create_app
    with TestClient(create_app()) as old, TestClient(create_app()) as new:
        old.post("/links", json={"slug": "a", "url": "https://example.com"})
        assert [link["slug"] for link in new.get("/links").json()] == ["a"]


def test_a_slug_is_taken_once(client: TestClient) -> None:
    link = {"slug": "a", "url": "https://example.com"}
    assert client.post("/links", json=link).status_code == 201
    again = client.post("/links", json=link)
    assert (again.status_code, again.json()["detail"]) == (409, "a is taken")


@pytest.mark.parametrize(
    "link", [{"slug": "A b", "url": "https://example.com"}, {"slug": "a", "url": "no"}, {}]
)
def test_a_bad_link_is_refused(client: TestClient, link: dict[str, str]) -> None:
    assert client.post("/links", json=link).status_code == 422
    assert client.get("/links").json() == []


def test_the_page_says_which_worker_answered_and_escapes_titles(client: TestClient) -> None:
    client.post("/links", json={"slug": "x", "url": "https://example.com", "title": "<script>"})
    page = client.get("/").text
    assert f"Worker {os.getpid()} answered" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_readiness_fails_while_the_database_cannot_be_read(load, tmp_path: Path) -> None:
    ready = load("fastapi_app", "app.ready")
    ready.database()
    (tmp_path / "data" / "links.db").write_bytes(b"not a database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        ready.database()


@pytest.mark.parametrize("path", ["/wait?ms=1", "/spin?ms=1"])
def test_requests_of_known_cost_answer_and_are_bounded(client: TestClient, path: str) -> None:
    assert client.get(path).json()["pid"] == os.getpid()
    assert client.get(path.replace("=1", "=999999")).status_code == 422
