"""What a measurement says of its own gaps: statuses, growth that is not known, workers that ended."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from farrier.measure import figures
from farrier.measure.asking import NoAnswer, Request
from farrier.measure.processes import ProcessGone
from farrier.measure.server import AppFailed, Server
from farrier.measure.session import Question, Session

MIB = 1 << 20


def session(tmp_path: Path, *statuses: dict[int, int], seconds: float = 20.0) -> Session:
    """One that has asked GET /0, GET /1 and so on, and was answered so."""
    requests = [Request("GET", f"/{i}", statuses=Counter(one)) for i, one in enumerate(statuses)]
    return Session(Question("shop:app", requests, seconds=seconds), tmp_path, "token")


def server(tmp_path: Path, *ended: tuple[int, str, str]) -> Server:
    """The log of one whose workers ended so: pid, reason, message. Nothing is booted."""
    found = Server.__new__(Server)
    found.files, found.log = tmp_path, tmp_path / "log"
    lines = [
        json.dumps({"event": "worker_ended", "worker": pid, "reason": reason, "message": message})
        for pid, reason, message in ended
    ]
    found.log.write_text("\n".join(lines))
    return found


def test_pages_that_redirect_say_nothing_of_the_app(tmp_path: Path) -> None:
    one = session(tmp_path, {302: 900})
    one.found.update(growth_per_1000=0, growth_error=10, request_memory=5, cpu_per_request=0.1)
    one.tell_statuses()
    assert one.notes == ["GET /0 answered 302: name requests that your app answers"]
    assert one.found == {"growth_per_1000": None, "growth_error": 10}


def test_a_form_that_redirects_beside_a_page_keeps_the_figures(tmp_path: Path) -> None:
    one = session(tmp_path, {200: 450}, {303: 450})
    one.found.update(growth_per_1000=0, request_memory=5)
    one.tell_statuses()
    assert one.notes == ["GET /1 answered 303: name requests that your app answers"]
    assert one.found == {"growth_per_1000": 0, "request_memory": 5}


def test_a_leak_is_told_even_of_pages_that_are_not_there(tmp_path: Path) -> None:
    one = session(tmp_path, {404: 900})
    one.found["growth_per_1000"] = 10 * MIB
    one.tell_statuses()
    assert one.found["growth_per_1000"] == 10 * MIB


@pytest.mark.parametrize(
    ("statuses", "notes"),
    [
        ({200: 1000, 500: 10}, []),
        ({200: 1000, 500: 15, 503: 5}, ["GET /0 answered 5xx in 20 of 1,020 requests"]),
        ({200: 1000, 401: 3}, ["GET /0 answered 3xx or 4xx in 3 of 1,003 requests"]),
    ],
)
def test_a_share_of_other_statuses_is_told(
    tmp_path: Path, statuses: dict[int, int], notes: list[str]
) -> None:
    one = session(tmp_path, statuses)
    one.tell_statuses()
    assert one.notes == notes


def test_a_request_that_fails_now_and_then_is_left_out_with_what_it_took_part_in(tmp_path: Path) -> None:
    one = session(tmp_path, {200: 100}, {200: 70, 500: 30})
    one.found.update(growth_per_1000=0, app_memory=7)
    one.settled = True
    one.leave_out_failing(server(tmp_path))
    assert [left.path for left in one.requests] == ["/0"]
    assert one.notes == ["GET /1 answered 500 in 30 of 100 requests: the figures of requests were left out"]
    assert one.found == {"app_memory": 7}


def test_when_all_fail_now_and_then_the_app_fails(tmp_path: Path) -> None:
    one = session(tmp_path, {200: 70, 500: 30})
    with pytest.raises(AppFailed, match="no request succeeded: GET /0 answered 500 in 30 of 100 requests"):
        one.leave_out_failing(server(tmp_path))


def test_growth_that_is_not_known_is_told_with_its_bound_and_the_time_it_takes(tmp_path: Path) -> None:
    one = session(tmp_path, {200: 30})
    one.each = 0.065
    samples = [(i * 2, 50 * MIB + i * 20480 + (i % 2) * 400_000) for i in range(figures.BLOCKS + 1)]
    assert not one.growth(samples)
    one.tell_growth(samples)
    assert one.found["growth_per_1000"] is None
    assert one.found["growth_error"] > 10 * MIB
    # 980 more at 65 ms are 63.7 s, of a time of which that is 65 %.
    (note,) = one.notes
    assert note.startswith("growth not known: from 20 requests it may be up to ")
    assert note.endswith(" MiB in 1,000; --seconds 118")


def test_growth_that_is_known_from_a_whole_lot_needs_no_note(tmp_path: Path) -> None:
    one = session(tmp_path, {200: 1000})
    samples = [(i * 100, 50 * MIB + i * MIB) for i in range(figures.BLOCKS + 1)]
    assert one.growth(samples)
    one.tell_growth(samples)
    assert one.notes == []
    assert one.found["growth_per_1000"] == 10 * MIB


def test_only_the_end_of_the_worker_that_was_measured_is_a_reason(tmp_path: Path) -> None:
    one = session(tmp_path, {200: 1})
    one.worker, one.asked = 7, Request("GET", "/slow")
    late = NoAnswer("no answer in time")
    late.__cause__ = TimeoutError()
    others = [(6, "stopped", "worker 6 stopped: as asked"), (7, "stopped", "worker 7 stopped: as asked")]
    told = one.what_ended(server(tmp_path, *others, (8, "crashed", "worker 8 crashed")), late)
    assert told == "GET /slow had no answer (no answer in time): what follows was left out"
    crashed = (7, "crashed", "worker 7 crashed: with exit status 7")
    told = one.what_ended(server(tmp_path, *others, crashed), ProcessGone("process 7 has ended"))
    assert told == "worker 7 crashed: with exit status 7: what follows was left out"
