"""Counter-based random streams: a number depends on the seed and on what it is for."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator whose numbers depend on `seed` and `counters` only.

    Neither the global random state nor earlier draws matter, so a run that is split into other
    batches, ranks or resumed halves draws the same numbers.

    Args:
        seed: any integer.
        counters: what the numbers are for, for example (step,) or (image index, sampler step).
        device: where the numbers are drawn.
    """
    generator = torch.Generator(device=device)
    generator.manual_seed(stream_seed(seed, *counters))
    return generator


def stream_seed(seed: int, *counters: int) -> int:
    """Seed of `stream(seed, *counters)`, in [0, 2^63): a hash of all the numbers."""
    text = ",".join(str(int(number)) for number in (seed, *counters))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # Some backends take the seed as a signed 64-bit number.
    return int.from_bytes(digest, "little") & 0x7FFF_FFFF_FFFF_FFFF
