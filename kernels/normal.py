"""Unit Gaussian noise that depends on a seed, a step and a position alone. Spec: Philox4x32-10."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from ._normal_native import native_normal
from ._normal_op import registered
from ._normal_triton import launch_normal, triton_normal
from .op import Call, Op

Tensor = torch.Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # fractions of the golden ratio and of sqrt(3)
ROUNDS = 10


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """Four random words of 32 bits per counter and key.

    Args:
        counter: four int64 tensors of words, broadcast against each other and against the key.
        key: two int64 tensors of words.

    Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(ROUNDS):
        high0, low0 = _product(MULTIPLIERS[0], c0)
        high1, low1 = _product(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return [c0, c1, c2, c3]


def _product(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """(high, low) 32 bits of a product of words; by halves, so that nothing overflows 63 bits."""
    low, high = (word & 0xFFFF) * factor, (word >> 16) * factor
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def reference(
    seeds: Tensor, step: int, shape: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Unit Gaussian numbers; row i depends on seeds[i] and `step` alone, on every device.

    Elements 4 b, ..., 4 b + 3 of a row are made of the four words of Philox4x32-10 with the seed
    as key and (b, step) as counter: each pair of words (v, w) gives r cos(a) and r sin(a) with
    r = sqrt(-2 log((v + 1/2) / 2^32)) and a = 2 pi w / 2^32.

    Args:
        seeds: (batch,) int64, any values; two rows of one seed are alike.
        step: what the numbers are for; any integer, taken modulo 2^64.
        shape: of one row.
        dtype: the backends agree to rounding in float32; the reference also gives float64.

    Returns:
        noise: (batch, *shape), contiguous, on the device of the seeds.

    Raises:
        ValueError: `seeds` is not (batch,) int64, or step or shape are not integers.

    Source: Salmon et al. 2011, as `philox`; Box and Muller 1958.
    """
    size, (batch,) = math.prod(shape), seeds.shape
    block = torch.arange(-(-size // 4), device=seeds.device)
    key = ((seeds & WORD)[:, None], ((seeds >> 32) & WORD)[:, None])
    later = [torch.full_like(block, (step >> bits) & WORD) for bits in (0, 32)]
    words = philox((block & WORD, block >> 32, *later), key)
    v, w = torch.stack(words[::2], -1).double(), torch.stack(words[1::2], -1).double()
    radius, angle = torch.sqrt(-2 * torch.log((v + 0.5) / 2**32)), w * (2 * math.pi / 2**32)
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1)
    numbers = pairs.to(dtype).reshape(batch, 4 * len(block))[:, :size]
    return numbers.contiguous().view(batch, *shape)


def check(
    seeds: Tensor, step: int, shape: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> None:
    """Raises ValueError unless the arguments are of these kinds."""
    if not isinstance(seeds, Tensor) or seeds.dtype != torch.int64 or seeds.ndim != 1:
        found = getattr(seeds, "dtype", type(seeds)), tuple(getattr(seeds, "shape", ()))
        raise ValueError(f"seeds are {found[0]} of shape {found[1]}; they must be (batch,) int64")
    if not isinstance(step, Integral):
        raise ValueError(f"step is {step!r}; it must be an integer")
    if any(not isinstance(n, Integral | torch.SymInt) or n < 0 for n in shape):
        raise ValueError(f"shape is {tuple(shape)}; it must be made of integers >= 0")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype is {dtype}; choose torch.float32 or torch.float64")


def unsupported(
    backend: str,
    seeds: Tensor,
    step: int,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
) -> str | None:
    """Reason why the fast backends cannot run this call, or None."""
    if dtype != torch.float32:
        return f"{backend} draws float32 only, not {dtype}"
    if backend == "native" and seeds.is_cuda:
        return "native draws on the CPU only"
    return None


def example(
    *,
    batch: int,
    shape: tuple[int, ...],
    step: int = 0,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    """Arguments of one call: rows of `shape` for `batch` arbitrary seeds."""
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator)
    return (seeds.to(device), step, shape), {"dtype": torch.float32}


CASES: list[dict[str, Any]] = [
    {"batch": 2, "shape": (3, 8, 8)},
    {"batch": 3, "shape": (1, 5, 7), "step": 1},
    {"batch": 5, "shape": (2, 3), "step": -1},
    {"batch": 2, "shape": (3, 32, 32), "step": 2**33 + 16},
    {"batch": 1, "shape": (4099,), "step": 7},
    {"batch": 3, "shape": (1,)},
    {"batch": 3, "shape": ()},
    {"batch": 0, "shape": (3, 4, 4)},
    {"batch": 2, "shape": (0, 4)},
]
BENCH: list[dict[str, Any]] = [
    {"batch": 64, "shape": (3, 32, 32)},
    {"batch": 64, "shape": (3, 64, 64)},
    {"batch": 1, "shape": (3, 32, 32)},
]
BENCH_GPU: list[dict[str, Any]] = [
    {"batch": batch, "shape": (3, side, side), "step": step}
    for batch, side in ((64, 32), (64, 64), (1, 32))
    for step in (0, 1, 2)
]

normal = Op(
    "normal",
    reference,
    triton=triton_normal,
    native=native_normal,
    check=check,
    unsupported=unsupported,
    registered=registered,
    example=example,
    cases=CASES,
    bench=BENCH,
    bench_gpu=BENCH_GPU,
    launches=launch_normal,
)
