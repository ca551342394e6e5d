"""The host names that a service accepts, against DNS rebinding by other sites."""

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Final

from sweeper.errors import SweeperError

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
# Addresses that listen on all interfaces, and how to reach them from this machine.
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")

_PATH: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def host_names(host: str, others: Iterable[str] = ()) -> frozenset[str]:
    """Return the accepted host names: those of loopback, `host` and `others`.

    Raises `SweeperError` for an invalid host name or address.
    """
    name = host_header(host)
    return frozenset(LOOPBACK).union({name} - EVERYWHERE.keys(), map(host_header, others))


def is_loopback(host: str) -> bool:
    """Return whether a host can only be reached from this machine."""
    name = host_header(host)
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def host_header(host: str) -> str:
    """Return a host as in a Host header: lowercase, IPv6 addresses in brackets."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        if _NAME.fullmatch(host):
            return host.lower()
        raise SweeperError(
            f"host {host!r} is not a name or an IP address; omit scheme, port and path"
        ) from None
    return f"[{address}]" if address.version == 6 else str(address)


def without_port(host: str) -> str:
    """Return the value of a Host header in lowercase, without the port."""
    return re.sub(r":\d+$", "", host).lower()


def trusted_proxies(addresses: Iterable[str]) -> str:
    """Return the addresses of trusted proxies, comma-separated as uvicorn expects them.

    Raises `SweeperError` for an invalid address or network.
    """
    addresses = list(addresses)
    for address in addresses:
        try:
            ip_network(address)
        except ValueError:
            raise SweeperError(
                f"trusted proxy {address!r} is not an IP address or a network such as 10.0.0.0/8"
            ) from None
    return ",".join(addresses)


def path_prefix(path: str) -> str:
    """Return the path prefix of the service, "" for the root; raises `SweeperError`."""
    bare = path.strip("/")
    if bare and not _PATH.fullmatch(bare):
        raise SweeperError(
            f"invalid root path {path!r}; allowed: letters, digits, . _ - and /, as in /sweeper"
        )
    return f"/{bare}" if bare else ""
