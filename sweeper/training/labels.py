"""The labels of the validation split, which are the same in all trials of a study."""

from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]


def digest_of(labels: Integers) -> str:
    """Return the SHA-256 of labels and their order, in hex; the integer type does not matter."""
    return sha256(np.ascontiguousarray(labels, dtype=np.int64).tobytes()).hexdigest()
