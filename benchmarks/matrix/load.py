"""The load: users who ask, wait for the answer, think for a second, and ask again. Never retries.

    python3 benchmarks/matrix/load.py ORDER.json        (scenarios.py starts it; a line on its input ends it)

A closed loop, as the promise to a tier's users is meant. A user keeps the connection where the server does;
one that the server closed between two requests is opened anew and is no failure. A request is answered whole
with a status below 500 within 30 s of its sending, or it has failed. Beside them a probe asks the paths in
`probes` in turns, on new connections, as a load balancer does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE = 30.0
#: What became of a request.
OUTCOMES = ("ok", "refused", "reset", "closed", "unanswered", "status")


class Broken(Exception):
    """A request failed: its outcome and a line on why."""

    def __init__(self, outcome: str, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


class Line:
    """A user's connection, opened when it is needed."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, path: str, keep: bool = True) -> int:
        """One request; its status. Broken where no whole answer comes."""
        if self.reader is not None and self.reader.at_eof():
            self.close()
        if self.reader is None:
            try:
                self.reader, self.writer = await asyncio.open_connection(self.address, self.port)
            except OSError as error:
                self.close()
                raise Broken("refused", str(error)) from None
        assert self.writer is not None
        head = f"GET {path} HTTP/1.1\r\nHost: bench\r\n" + ("" if keep else "Connection: close\r\n") + "\r\n"
        try:
            self.writer.write(head.encode())
            status, stays = await self.answer()
        except asyncio.IncompleteReadError as error:
            self.close()
            raise Broken("closed", f"closed after {len(error.partial)} bytes of an answer") from None
        except OSError as error:
            self.close()
            raise Broken("reset", str(error)) from None
        if not (keep and stays):
            self.close()
        return status

    async def answer(self) -> tuple[int, bool]:
        """Status, and whether the connection stays."""
        assert self.reader is not None
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "content-length" in headers:
            await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                await self.reader.readexactly(size + 2)
            await self.reader.readexactly(2)
        return int(first.split(" ", 2)[1]), headers.get("connection", "").lower() != "close"

    def close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None


class Load:
    """Users and a probe until it is stopped."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.stopping = asyncio.Event()
        self.records: list[tuple[float, float, str, str, int]] = []
        self.failures: list[dict[str, Any]] = []

    async def once(self, line: Line, path: str, keep: bool = True) -> None:
        """One request with its record: (sent, seconds, path, outcome, status)."""
        sent = time.time()
        status, text = 0, ""
        try:
            async with asyncio.timeout(PATIENCE):
                status = await line.ask(path, keep)
            outcome = "ok" if status < 500 else "status"
            text = "" if outcome == "ok" else f"status {status}"
        except TimeoutError:
            line.close()
            outcome, text = "unanswered", f"no answer within {PATIENCE:.0f} s"
        except Broken as broken:
            outcome, text = broken.outcome, str(broken)
        seconds = time.time() - sent
        self.records.append((sent, seconds, path, outcome, status))
        if outcome != "ok":
            self.failures.append(
                {"sent": sent, "seconds": seconds, "path": path, "outcome": outcome, "text": text}
            )

    async def pause(self, seconds: float) -> None:
        """Think, and wake up when it is over."""
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            pass

    async def user(self, number: int) -> None:
        think = float(self.order["think"])
        line = Line(self.order["address"], self.order["port"])
        # Users do not come all at once: the first second is theirs to arrive in.
        await self.pause(think * number / max(1, self.order["users"]))
        while not self.stopping.is_set():
            await self.once(line, "/")
            if self.records[-1][3] != "ok":
                await self.pause(0.05)
            # Between 0.9 and 1.1: else all of them fall into step.
            await self.pause(think * random.uniform(0.9, 1.1))
        line.close()

    async def probe(self) -> None:
        line = Line(self.order["address"], self.order["port"])
        while self.order["probes"] and not self.stopping.is_set():
            for path in self.order["probes"]:
                await self.once(line, path, keep=False)
            await self.pause(0.5)

    async def until_told(self) -> None:
        """A line on the input, its end, or the time that was ordered."""
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), self.stopping.set)
        await self.pause(self.order.get("seconds") or 86400)
        loop.remove_reader(sys.stdin.fileno())
        self.stopping.set()

    async def run(self) -> dict[str, Any]:
        began, spent = time.time(), time.process_time()
        users = [self.user(number) for number in range(self.order["users"])]
        await asyncio.gather(self.until_told(), self.probe(), *users)
        ended = time.time()
        share = (time.process_time() - spent) / (ended - began)
        return {"began": began, "ended": ended, "cpu": round(share, 4)}


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text())
    # Others on its core must not make it late.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    load = Load(order)
    print("ready", flush=True)
    result = asyncio.run(load.run())
    Path(order["records"]).write_text(
        json.dumps({**result, "records": load.records, "failures": load.failures})
    )


if __name__ == "__main__":
    main()
