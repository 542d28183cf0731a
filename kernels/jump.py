"""The jump G = P x + Q F from a noisy image and the raw network output. Spec: CTM, Eq. 9."""

from typing import Any

import torch

from ._jump_native import native_jump
from ._pointwise import jump_arguments, limits, registered
from ._pointwise_triton import launch_jump, triton_jump
from .arguments import Draw, check_factors, check_network, check_state, column
from .op import Call, Op


def reference(x: torch.Tensor, F: torch.Tensor, P: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    """Image at the destination noise level, P x + Q F, computed and returned in x's dtype.

    Args:
        x: (batch, ...) float32 or float64 noisy images.
        F: (batch, ...) raw network output, any floating dtype.
        P: (batch,) factor of x, in x's dtype.
        Q: (batch,) factor of F, in x's dtype.

    Returns:
        jumped: (batch, ...) in x's dtype.

    Raises:
        ValueError: shapes or dtypes do not fit together.

    Source: Kim et al. 2023 (arXiv:2310.02279), Eqs. 9 and 10, with the network's own
    preconditioning multiplied out.
    """
    return column(P, x) * x + column(Q, x) * F.to(x.dtype)


def torch_jump(x: torch.Tensor, F: torch.Tensor, P: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    """`reference` with one pass less over the images."""
    return torch.addcmul(column(P, x) * x, column(Q, x), F.to(x.dtype))


def check(x: torch.Tensor, F: torch.Tensor, P: torch.Tensor, Q: torch.Tensor) -> None:
    """Raises ValueError unless the arguments fit together."""
    check_state(x)
    check_network("F", F, x)
    check_factors(x, P=P, Q=Q)


def unsupported(
    backend: str, x: torch.Tensor, F: torch.Tensor, P: torch.Tensor, Q: torch.Tensor
) -> str | None:
    """Reason why the fast backends cannot run this call, or None."""
    if backend == "torch":
        return None
    if backend == "native" and x.is_cuda:
        return "native has no jump on CUDA"
    return limits(backend, (x, F), (F.dtype,))


def example(
    *,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    network: torch.dtype = torch.float32,
    channels_last: bool = False,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    """Arguments of one call: images of `shape`, state in `dtype`, F in `network`."""
    draw = Draw(seed, device, channels_last)
    x = draw.normal(*shape, dtype=dtype, scale=4.0)
    F = draw.normal(*shape, dtype=network)
    return (x, F, *(draw.normal(shape[0], dtype=dtype) for _ in range(2))), {}


CASES: list[dict[str, Any]] = [
    dict(shape=(2, 3, 8, 8)),
    dict(shape=(3, 3, 5, 7), channels_last=True),
    dict(shape=(3, 1, 5, 7), network=torch.bfloat16),
    dict(shape=(1, 3, 9, 9), network=torch.float16, channels_last=True),
    dict(shape=(2, 17), dtype=torch.float64),
    dict(shape=(2, 3, 4, 4), dtype=torch.float64, network=torch.float32),
    dict(shape=(2, 3, 5, 4), dtype=torch.float64, network=torch.bfloat16),
    dict(shape=(2, 3, 96, 97), network=torch.float16),
    dict(shape=(0, 3, 4, 4)),
    dict(shape=(1, 1, 1, 1)),
]
BENCH: list[dict[str, Any]] = [
    dict(shape=(64, 3, 32, 32), network=torch.bfloat16, channels_last=True),
    dict(shape=(64, 3, 64, 64), network=torch.bfloat16, channels_last=True),
    dict(shape=(64, 3, 32, 32)),
]
BENCH_GPU: list[dict[str, Any]] = [
    dict(shape=(batch, 3, side, side), network=network, channels_last=True)
    for batch, side in ((64, 32), (64, 64), (11, 32))
    for network in (torch.bfloat16, torch.float16, torch.float32)
]

jump = Op(
    "jump",
    reference,
    torch=torch_jump,
    triton=triton_jump,
    native=native_jump,
    check=check,
    unsupported=unsupported,
    registered=registered("jump", jump_arguments),
    differentiable=True,
    example=example,
    cases=CASES,
    bench=BENCH,
    bench_gpu=BENCH_GPU,
    launches=launch_jump,
)
