"""Simulated users of the service, in a process without imports of the package.

Each user has a page open that listens to events and fetches its figures again when they have
changed, as `service.js` does; asks the JSON API every 2 s; and every 10 s asks for the table of
trials sorted by NLL. Prints the times of the answers as JSON, for benchmarks/service.py.
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
# As in `service.js`.
REFRESH: Final = 5.0
_VERSION: Final = re.compile(rb'("version": |data-version=)"(\w+)"')


class Connection:
    """A connection that is kept open between requests, as browsers do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> tuple[str, bytes]:
        """Return the head and the body of an answer."""
        head, reader = await self._ask(path)
        length = re.search(r"content-length: (\d+)", head)
        return head, await reader.readexactly(int(length[1]) if length else 0)

    async def listen(self, path: str) -> AsyncIterator[bytes]:
        """Yield the lines of a stream of events."""
        _, reader = await self._ask(path)
        while line := await reader.readline():
            yield line

    async def _ask(self, path: str) -> tuple[str, asyncio.StreamReader]:
        head = f"Host: 127.0.0.1:{self._port}\r\nAccept: text/html"
        while True:
            kept = self._streams is not None
            self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            try:
                writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n\r\n".encode())
                return (await reader.readuntil(b"\r\n\r\n")).decode().lower(), reader
            except (asyncio.IncompleteReadError, ConnectionError):
                if not kept:
                    raise
                self._streams = None  # the server closed it after a time without requests


class Users:
    """Users with browsers; `times` are the seconds of each kind of answer."""

    def __init__(self, port: int, study: str) -> None:
        self._port, self._study = port, f"/studies/{study}"
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []

    async def watch(self, users: int, arrival: float, seconds: float) -> None:
        """Let users come one after another within `arrival` seconds; each stays for `seconds`."""
        each = [self._user(arrival * number / users, seconds) for number in range(users)]
        await asyncio.gather(*each)

    async def _user(self, late: float, seconds: float) -> None:
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
        connection = Connection(self._port)
        shown = await self._figures(connection)
        events = Connection(self._port)
        async for said in events.listen(f"{self._study}/events?shown=running"):
            found = _VERSION.search(said)
            if found and found[2] != shown:
                await asyncio.sleep(REFRESH)
                shown = await self._figures(connection)

    async def _figures(self, connection: Connection) -> bytes:
        body = await self._get(connection, "page", f"{self._study}?shown=running")
        found = _VERSION.search(body)
        return found[2] if found else b""

    async def _every(self, seconds: float, kind: str, path: str) -> None:
        connection = Connection(self._port)
        while True:
            await self._get(connection, kind, path)
            await asyncio.sleep(seconds)

    async def _get(self, connection: Connection, kind: str, path: str) -> bytes:
        began = time.perf_counter()
        head, body = await connection.get(path)
        self.times[kind].append(time.perf_counter() - began)
        if not head.startswith("http/1.1 200"):
            self.errors.append(f"{path}: {head[:80]} {body[:200]!r}")
        return body


def main() -> None:
    """Run the users."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("study")
    parser.add_argument("users", type=int)
    parser.add_argument("arrival", type=float)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    all_users = Users(given.port, given.study)
    asyncio.run(all_users.watch(given.users, given.arrival, given.seconds))
    found = {"times": all_users.times, "errors": all_users.errors, "cpu": time.process_time()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
