"""What is made quick for the sake of every request says the same as what it stands for."""

from __future__ import annotations

import asyncio
import json
import os

from asgiref.sync import iscoroutinefunction

from farrier.serve.apps import request_id
from farrier.serve.events import JsonFormatter
from farrier.serve.log import request_fields, request_record
from farrier.serve.workers.calls import Sent, Turns


def test_an_access_line_is_the_json_of_its_fields() -> None:
    fields = request_fields("GET", '/a"\\\n\u2028é?b=1', 200, 0, 0.0123456, "::1", 'x"\x01', None, "id")
    line = JsonFormatter().format(request_record(fields))
    found = json.loads(line)
    assert "\n" not in line
    assert {name: found[name] for name in fields} == fields
    assert found["message"] == f"GET {fields['path']} 200"
    assert (found["severity"], found["pid"]) == ("INFO", os.getpid())
    assert "referer" not in found


def test_workers_of_one_master_make_ids_of_their_own() -> None:
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, "".join(request_id(None) for _ in range(3)).encode())
        os._exit(0)
    os.wait()
    theirs = os.read(read, 100).decode()
    mine = "".join(request_id(None) for _ in range(3))
    assert len(theirs) == len(mine) == 48
    assert theirs != mine


def test_a_turn_goes_to_the_next_in_line_also_when_one_leaves_at_that_moment() -> None:
    async def three() -> list[str]:
        turns, said = Turns(1), []
        assert turns.take()

        async def wait(name: str) -> None:
            await turns.wait()
            said.append(name)

        first, second = asyncio.create_task(wait("first")), asyncio.create_task(wait("second"))
        await asyncio.sleep(0)
        assert not turns.take()
        turns.give()
        first.cancel()
        await asyncio.wait({first, second}, timeout=5)
        turns.give()
        assert turns.take()
        assert not turns.take()
        return said

    assert asyncio.run(three()) == ["second"]


def test_a_wsgi_app_behind_asgiref_is_sent_without_a_warning() -> None:
    assert iscoroutinefunction(Sent(None, "id", None))  # type: ignore[arg-type]
