"""Views for WSGI and ASGI alike; ``wait`` is a coroutine, so that ASGI workers overlap it."""

from __future__ import annotations

import asyncio
import os
import time

from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from tasks import STARTED
from tasks.models import Task

LONGEST_MS = 10_000


def index(request: HttpRequest) -> HttpResponse:
    release = os.environ.get("FARRIER_RELEASE", "none")
    page = {"tasks": Task.objects.all()[:50], "pid": os.getpid(), "release": release}
    return render(request, "tasks/index.html", page)


@require_POST
def add(request: HttpRequest) -> HttpResponse:
    title = request.POST.get("title", "").strip()
    if not title or len(title) > 200:
        return HttpResponseBadRequest("title: 1 to 200 characters")
    Task.objects.create(title=title)
    return redirect("/")


@require_POST
def done(request: HttpRequest, task_id: int) -> HttpResponse:
    task = get_object_or_404(Task, pk=task_id)
    task.done = True
    task.save(update_fields=["done"])
    return redirect("/")


def as_json(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"tasks": list(Task.objects.values("id", "title", "done")[:50])})


def whoami(request: HttpRequest) -> JsonResponse:
    """Who answered, and the database settings that the plan gave this worker."""
    settings = connection.settings_dict
    return JsonResponse(
        {
            "pid": os.getpid(),
            "instance": os.environ.get("FARRIER_INSTANCE"),
            "release": os.environ.get("FARRIER_RELEASE"),
            "uptime_seconds": round(time.time() - STARTED, 3),
            "database": {
                "conn_max_age": settings["CONN_MAX_AGE"],
                "conn_health_checks": settings["CONN_HEALTH_CHECKS"],
                "pool": settings["OPTIONS"].get("pool"),
            },
        }
    )


def milliseconds(request: HttpRequest, default: int) -> int | None:
    given = request.GET.get("ms", str(default))
    return int(given) if given.isdecimal() and int(given) <= LONGEST_MS else None


async def wait(request: HttpRequest) -> HttpResponse:
    """A request of known cost for load tests: it only waits (I/O)."""
    ms = milliseconds(request, 50)
    if ms is None:
        return HttpResponseBadRequest(f"ms: a whole number from 0 to {LONGEST_MS}")
    await asyncio.sleep(ms / 1000)
    return JsonResponse({"pid": os.getpid(), "waited_ms": ms})


def spin(request: HttpRequest) -> HttpResponse:
    """A request of known cost for load tests: it only computes (CPU)."""
    ms = milliseconds(request, 10)
    if ms is None:
        return HttpResponseBadRequest(f"ms: a whole number from 0 to {LONGEST_MS}")
    # Thread time, not wall time: the cost stays the same under load.
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return JsonResponse({"pid": os.getpid(), "spun_ms": ms})
