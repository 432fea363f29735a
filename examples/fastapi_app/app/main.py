"""The factory that Gunicorn calls: ``app.main:create_app()``."""

from __future__ import annotations

import asyncio
import html
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import AnyHttpUrl, BaseModel, Field

from app import ready
from app.store import LinkStore, SlugTaken, data_dir

Milliseconds = Annotated[int, Query(ge=0, le=10_000)]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Links</title></head>
<body><h1>Links</h1><p>Worker {pid} answered; release {release}.</p><ul>{items}</ul></body></html>
"""


class NewLink(BaseModel):
    slug: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9-]+$")
    url: AnyHttpUrl
    title: str = Field(default="", max_length=200)


def register_readiness() -> None:
    """Without farrier (a developer's laptop) there is nobody to register with."""
    try:
        from farrier.health import ready_check
    except ImportError:
        return
    ready_check(ready.database)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.links = LinkStore(data_dir() / "links.db")
    app.state.started = time.time()
    yield


def create_app() -> FastAPI:
    app = FastAPI(title="Links", lifespan=lifespan)
    register_readiness()
    add_pages(app)
    add_links(app)
    add_load(app)
    return app


def add_pages(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse)
    def index(request: Request) -> str:
        items = "".join(
            f'<li><a href="/l/{link["slug"]}">{html.escape(str(link["title"] or link["url"]))}</a>'
            f" {link['visits']}</li>"
            for link in request.app.state.links.list()
        )
        release = html.escape(os.environ.get("FARRIER_RELEASE", "none"))
        return PAGE.format(pid=os.getpid(), release=release, items=items)

    @app.get("/whoami")
    async def whoami(request: Request) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "instance": os.environ.get("FARRIER_INSTANCE"),
            "release": os.environ.get("FARRIER_RELEASE"),
            "uptime_seconds": round(time.time() - request.app.state.started, 3),
        }


def add_links(app: FastAPI) -> None:
    @app.get("/links")
    def links(request: Request) -> list[dict[str, object]]:
        return list(request.app.state.links.list())

    @app.post("/links", status_code=201)
    def add(request: Request, link: NewLink) -> dict[str, object]:
        try:
            return dict(request.app.state.links.add(link.slug, str(link.url), link.title))
        except SlugTaken as error:
            raise HTTPException(409, f"{link.slug} is taken") from error

    @app.get("/l/{slug}")
    def follow(request: Request, slug: str) -> RedirectResponse:
        url = request.app.state.links.visit(slug)
        if url is None:
            raise HTTPException(404, f"no link named {slug}")
        return RedirectResponse(url, status_code=307)

    @app.delete("/links/{slug}", status_code=204)
    def remove(request: Request, slug: str) -> None:
        if not request.app.state.links.remove(slug):
            raise HTTPException(404, f"no link named {slug}")


def add_load(app: FastAPI) -> None:
    """Two endpoints of known cost, for load tests: waiting (I/O) and computing (CPU)."""

    @app.get("/wait")
    async def wait(ms: Milliseconds = 50) -> dict[str, int]:
        await asyncio.sleep(ms / 1000)
        return {"pid": os.getpid(), "waited_ms": ms}

    @app.get("/spin")
    def spin(ms: Milliseconds = 10) -> dict[str, int]:
        # Thread time, not wall time: the cost stays the same under load.
        end = time.thread_time() + ms / 1000
        while time.thread_time() < end:
            pass
        return {"pid": os.getpid(), "spun_ms": ms}
