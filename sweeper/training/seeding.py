"""Seeds, and the random state of the process while a loop runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2**63) that depends on the parts alone.

    The same on every machine and in every version. Raises TypeError for a part that has no
    text of its own: parts are str, int, float, bool, None, or tuples and lists of them.
    """
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_global(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout and a model's start draw from."""
    # torch.manual_seed does this for every kind of device and takes 100 us, not 1
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the global generators and cuDNN's switches as they were before the block."""
    cudnn = torch.backends.cudnn
    switches = cudnn.deterministic, cudnn.benchmark
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = switches
