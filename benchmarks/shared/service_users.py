"""People at the service, in a process of their own that imports as little as a browser does of us.

Each has a page open that is told what is new and fetches its figures again when there are
others, as `service.js` does; asks the JSON API every 2 s, and every 10 s for the table of trials
sorted by NLL. Prints what they met, as JSON, for benchmarks/service.py.
"""

import argparse
import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Final

API_EVERY: Final = 2.0
TABLE_EVERY: Final = 10.0
# Within which people come, one after the other.
ARRIVAL: Final = 10.0
# As `service.js` has it.
REFRESH: Final = 5.0
_VERSION: Final = re.compile(rb'("version": |data-version=)"(\w+)"')


class Line:
    """A connection that is kept open from one question to the next, as browsers do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> tuple[str, bytes]:
        """Return an answer: its head and its body."""
        head, reader = await self._ask(path)
        length = re.search(r"content-length: (\d+)", head)
        return head, await reader.readexactly(int(length[1]) if length else 0)

    async def listen(self, path: str) -> AsyncIterator[bytes]:
        """Yield each line of events as it comes."""
        _, reader = await self._ask(path)
        while line := await reader.readline():
            yield line

    async def _ask(self, path: str) -> tuple[str, asyncio.StreamReader]:
        head = f"Host: 127.0.0.1:{self._port}\r\nAccept: text/html"
        while True:
            kept = self._line is not None
            self._line = self._line or await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._line
            try:
                writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n\r\n".encode())
                return (await reader.readuntil(b"\r\n\r\n")).decode().lower(), reader
            except (asyncio.IncompleteReadError, ConnectionError):
                if not kept:
                    raise
                self._line = None  # it was closed because nothing had been asked for a while


class Crowd:
    """People at browsers; `times` are the seconds of each kind of answer."""

    def __init__(self, port: int, study: str) -> None:
        self._port, self._study = port, f"/studies/{study}"
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []

    async def watch(self, people: int, seconds: float) -> None:
        """Let people come one after the other, and leave after so many seconds."""
        each = [self._person(ARRIVAL * at / people, seconds) for at in range(people)]
        await asyncio.gather(*each)

    async def _person(self, late: float, seconds: float) -> None:
        await asyncio.sleep(late)
        jobs = [
            self._page(),
            self._every(API_EVERY, "numbers", f"/v1{self._study}"),
            self._every(TABLE_EVERY, "table", f"{self._study}/trials?sort=nll"),
        ]
        tasks = [asyncio.create_task(job) for job in jobs]
        done, rest = await asyncio.wait(tasks, timeout=seconds)
        for task in rest:
            task.cancel()
        self.errors += [repr(task.exception()) for task in done]

    async def _page(self) -> None:
        line = Line(self._port)
        shown = await self._figures(line)
        events = Line(self._port)
        async for said in events.listen(f"{self._study}/events?shown=running"):
            found = _VERSION.search(said)
            if found and found[2] != shown:
                await asyncio.sleep(REFRESH)
                shown = await self._figures(line)

    async def _figures(self, line: Line) -> bytes:
        body = await self._get(line, "page", f"{self._study}?shown=running")
        found = _VERSION.search(body)
        return found[2] if found else b""

    async def _every(self, seconds: float, kind: str, path: str) -> None:
        line = Line(self._port)
        while True:
            await self._get(line, kind, path)
            await asyncio.sleep(seconds)

    async def _get(self, line: Line, kind: str, path: str) -> bytes:
        began = time.perf_counter()
        head, body = await line.get(path)
        self.times[kind].append(time.perf_counter() - began)
        if not head.startswith("http/1.1 200"):
            self.errors.append(f"{path}: {head[:80]} {body[:200]!r}")
        return body


def main() -> None:
    """Be the people."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("study")
    parser.add_argument("people", type=int)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    met = Crowd(given.port, given.study)
    asyncio.run(met.watch(given.people, given.seconds))
    print(json.dumps({"times": met.times, "errors": met.errors, "cpu": time.process_time()}))


if __name__ == "__main__":
    main()
