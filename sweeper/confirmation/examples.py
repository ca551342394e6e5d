"""The stored format of the per-example test values of a training run."""

import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sweeper.training.messages import EXAMPLE_VALUES

Floats = NDArray[np.float64]


# The name of the group of each test example, among the names in EXAMPLE_VALUES.
GROUP: Final = "group"


def pack_examples(path: Path) -> bytes:
    """Read the file of `ReplicateResult.save`; return its arrays in the stored format.

    The format is the compressed values, followed by the compressed groups if there are any.
    """
    with np.load(path, allow_pickle=False) as arrays:
        examples: NDArray[np.float32] = arrays["examples"]
        groups: NDArray[np.int32] = arrays["groups"]
    packed = zlib.compress(examples.tobytes())
    return packed + zlib.compress(groups.tobytes()) if len(groups) else packed


def unpack_examples(packed: bytes) -> dict[str, Floats]:
    """Return the values of the test examples by name, (N,) each, and their groups as GROUP.

    Values that are unknown are missing. GROUP is missing if each example is its own group.
    """
    first = zlib.decompressobj()
    values = np.frombuffer(first.decompress(packed) + first.flush(), np.float32).astype(np.float64)
    rows = zip(EXAMPLE_VALUES, values.reshape(len(EXAMPLE_VALUES), -1), strict=True)
    by_name = {name: row for name, row in rows if not np.isnan(row).all()}
    if first.unused_data:
        groups = np.frombuffer(zlib.decompress(first.unused_data), np.int32)
        by_name[GROUP] = groups.astype(np.float64)
    return by_name
