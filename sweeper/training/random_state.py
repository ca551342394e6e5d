"""Seeding and isolation of torch's global random state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_global(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of `device`."""
    # torch.manual_seed seeds all kinds of devices and takes 100 us instead of 1 us.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def restored_random_state(device: torch.device) -> Iterator[None]:
    """Restore the global generators and the cuDNN flags after the block.

    In the block, cuDNN is deterministic and its benchmark mode is off.
    """
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = flags
