"""Hostile clients of the service, in a process without imports of the package.

Each holds one connection and opens another when the service closes it. Prints the number of
connections and of answers as JSON when it is terminated, for benchmarks/attack.py.
"""

import argparse
import asyncio
import json
import re
import secrets
import signal
from collections.abc import Awaitable, Callable
from typing import Final

# Between two bytes of a client that is slow on purpose.
TRICKLE_SECONDS: Final = 1.0
# Before a client that was refused or cut off comes again.
AGAIN_SECONDS: Final = 0.1

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Attackers:
    """Clients of one kind; `connections` and `answers` count what they got."""

    def __init__(self, port: int, study: str, token: str) -> None:
        self._port, self._study, self._token = port, study, token
        self._host = f"Host: 127.0.0.1:{port}"
        self.connections = self.answers = 0

    async def attack(self, kind: str, clients: int) -> None:
        """Let clients attack until this is canceled."""
        await asyncio.gather(*(self._client(KINDS[kind]) for _ in range(clients)))

    async def _client(self, kind: Callable[["Attackers", Streams], Awaitable[None]]) -> None:
        while True:
            try:
                streams = await asyncio.open_connection("127.0.0.1", self._port)
                self.connections += 1
                try:
                    await kind(self, streams)
                finally:
                    streams[1].close()
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await asyncio.sleep(AGAIN_SECONDS)

    async def half_sent_headers(self, streams: Streams) -> None:
        """Send one header after another, and never the end of them."""
        await self._trickle(streams, f"GET / HTTP/1.1\r\n{self._host}\r\n", "X-More: x\r\n")

    async def slow_bodies(self, streams: Streams) -> None:
        """Send the body of a form one byte at a time."""
        head = f"POST /sign-in HTTP/1.1\r\n{self._host}\r\nContent-Length: 100000\r\n\r\n"
        await self._trickle(streams, head, "x")

    async def idle_connections(self, streams: Streams) -> None:
        """Ask once, and then only hold the connection."""
        await self._ask(streams, "GET /v1/studies")
        await streams[0].readexactly(1)

    async def guessed_tokens(self, streams: Streams) -> None:
        """Guess tokens, each of another key, as fast as they are refused."""
        while True:
            guess = f"swp_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
            await self._ask(streams, f"GET /v1/studies/{self._study}", bearer=guess)

    async def event_streams(self, streams: Streams) -> None:
        """Listen to the events of the study, as somebody who has signed in."""
        path = f"/studies/{self._study}/events?shown=running"
        await self._ask(streams, f"GET {path}", bearer=self._token)
        while await streams[0].readline():
            pass
        await asyncio.sleep(AGAIN_SECONDS)

    async def sign_in_forms(self, streams: Streams) -> None:
        """Send the sign-in form with a wrong token, as fast as it is refused."""
        head, page = await self._ask(streams, "GET /sign-in")
        cookie, csrf = (
            re.search(r"sweeper_session=[^;]+", head),
            re.search(rb'"([0-9a-f]{64})"', page),
        )
        assert cookie
        assert csrf
        while True:
            form = f"csrf={csrf[1].decode()}&token=swp_{secrets.token_hex(8)}_x"
            await self._ask(streams, "POST /sign-in", body=form, cookie=cookie[0])

    async def _trickle(self, streams: Streams, first: str, more: str) -> None:
        reader, writer = streams
        writer.write(first.encode())
        closed = asyncio.ensure_future(reader.read())
        while not (await asyncio.wait([closed], timeout=TRICKLE_SECONDS))[0]:
            writer.write(more.encode())
        await closed

    async def _ask(
        self, streams: Streams, line: str, *, bearer: str = "", body: str = "", cookie: str = ""
    ) -> tuple[str, bytes]:
        head = [f"{line} HTTP/1.1", self._host, "Accept: text/html"]
        head += [f"Authorization: Bearer {bearer}"] if bearer else []
        if body:
            head += ["Content-Type: application/x-www-form-urlencoded", f"Cookie: {cookie}"]
            head += [f"Content-Length: {len(body)}"]
        reader, writer = streams
        writer.write(("\r\n".join(head) + f"\r\n\r\n{body}").encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", answer, re.IGNORECASE)
        text = await reader.readexactly(int(length[1]) if length else 0)
        self.answers += 1
        return answer, text


KINDS: Final = {
    "half-sent headers": Attackers.half_sent_headers,
    "slow bodies": Attackers.slow_bodies,
    "idle connections": Attackers.idle_connections,
    "guessed tokens": Attackers.guessed_tokens,
    "event streams": Attackers.event_streams,
    "sign-in forms": Attackers.sign_in_forms,
}


async def until_terminated(attackers: Attackers, kind: str, clients: int) -> None:
    """Attack until SIGTERM."""
    attack = asyncio.ensure_future(attackers.attack(kind, clients))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, attack.cancel)
    await asyncio.wait([attack])
    if not attack.cancelled():
        attack.result()


def main() -> None:
    """Attack, and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("port", type=int)
    parser.add_argument("study")
    parser.add_argument("clients", type=int)
    parser.add_argument("token")
    given = parser.parse_args()
    attackers = Attackers(given.port, given.study, given.token)
    asyncio.run(until_terminated(attackers, given.kind, given.clients))
    print(json.dumps({"connections": attackers.connections, "answers": attackers.answers}))


if __name__ == "__main__":
    main()
