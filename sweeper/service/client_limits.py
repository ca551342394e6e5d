"""Limits per client, so that one client cannot block the service for all others.

The table in docs/reference/service-limits.md lists these values with their reasons.
"""

import resource
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final


@dataclass(frozen=True)
class ClientLimits:
    """The limits of a service; `unauthenticated` means without a valid token or session."""

    connections: int = 1024
    connections_per_address: int = 256
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: int = 5
    unread_seconds: float = 30.0
    requests_per_address: int = 128
    streams_per_address: int = 64
    stream_seconds: float = 3600.0
    session_check_seconds: float = 2.0
    unauthenticated_at_once: int = 50
    unauthenticated_per_second: float = 10.0
    unauthenticated_wait_seconds: float = 5.0
    free_failures: int = 5
    lockout_seconds: float = 900.0

    def fitting(self) -> "ClientLimits":
        """Return limits for at most half of the file descriptors; the database needs some too."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = self.connections
        if descriptors != resource.RLIM_INFINITY:
            most = min(most, descriptors // 2)
        each = min(self.connections_per_address, max(1, most // 2))
        return replace(self, connections=most, connections_per_address=each)


LIMITS: Final = ClientLimits()


@lru_cache(maxsize=1024)
def client_key(host: str) -> str:
    """Return the key of a client for limits: its IPv4 address or its IPv6 network (/64)."""
    try:
        address = ip_address(host)
    except ValueError:
        return host[:45]
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64))
