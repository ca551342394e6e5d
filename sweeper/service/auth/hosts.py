"""By which names a service may be asked: a page elsewhere may have bound its own to loopback."""

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Final

from sweeper.errors import SweeperError

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
# What listens on every address, and how it is reached from this machine.
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")

_PATH: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def host_names(host: str, others: Iterable[str] = ()) -> frozenset[str]:
    """Return the names that a service on `host` may be asked by: loopback's, its own, others.

    Raises `SweeperError` for what is no host name or address.
    """
    own = spelt(host)
    return frozenset(LOOPBACK).union({own} - EVERYWHERE.keys(), map(spelt, others))


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens on a host."""
    name = spelt(host)
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def spelt(host: str) -> str:
    """Return a host as browsers name it: in lower case, an IPv6 address in brackets."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        if _NAME.fullmatch(host):
            return host.lower()
        raise SweeperError(
            f"host {host!r}; allowed: a name or an IP address, without scheme, port or path"
        ) from None
    return f"[{address}]" if address.version == 6 else str(address)


def without_port(host: str) -> str:
    """Return what a Host header names, without its port."""
    return re.sub(r":\d+$", "", host).lower()


def proxies(given: Iterable[str]) -> str:
    """Return the addresses of proxies that are believed, as uvicorn takes them.

    Raises `SweeperError` for what is neither an address nor a network of them.
    """
    addresses = list(given)
    for address in addresses:
        try:
            ip_network(address)
        except ValueError:
            raise SweeperError(
                f"trusted proxy {address!r}; allowed: an IP address or a network as 10.0.0.0/8"
            ) from None
    return ",".join(addresses)


def below(path: str) -> str:
    """Return the path that the pages are below, "" for the root; raises `SweeperError`."""
    bare = path.strip("/")
    if bare and not _PATH.fullmatch(bare):
        raise SweeperError(
            f"root path {path!r}; allowed: letters, digits, . _ - and /, as /sweeper"
        )
    return f"/{bare}" if bare else ""
