"""Derive seeds from other seeds. Does not import torch."""

import json
from hashlib import blake2b


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2**63) that depends only on `parts`.

    Parts are str, int, float, bool, None, or tuples and lists of these; other types raise
    TypeError. The result is the same on all machines and in all versions of sweeper.
    """
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
