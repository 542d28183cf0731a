"""The affine layers of all blocks of a network as one operation on the noise embedding."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .arguments import Draw, layer_dtype
from .op import Call, Op

Tensor = torch.Tensor
Tensors = Sequence[torch.Tensor]
PLAIN = (torch.Tensor, torch.nn.Parameter)
GATHERED = 1 << 20
"""So many weights at most are gathered for one product on a CPU."""


def reference(
    emb: Tensor,
    weights: Tensors,
    biases: Tensors,
    emb_to: Tensor | None = None,
    weights_to: Tensors = (),
    biases_to: Tensors = (),
    parts: int = 1,
) -> list[Tensor]:
    """What every block gets, emb W_i^T + b_i, with a destination + emb_to W_to_i^T + b_to_i.

    Under autocast in its dtype, like any linear layer.

    Args:
        emb: (batch or 1, width) embedding of the noise level.
        weights: (rows_i, width) of every block i, in emb's dtype.
        biases: (rows_i,) of every block.
        emb_to: (batch or 1, width) embedding of the destination, or None.
        weights_to, biases_to: the same for the destination; empty without one.
        parts: every block's rows are handed out in this many equal pieces.

    Returns:
        rows: (batch or 1, rows_i / parts) for every piece of every block, in order.

    Raises:
        ValueError: shapes or dtypes do not fit together.
    """
    rows = [F.linear(emb, weight, bias) for weight, bias in zip(weights, biases)]
    if emb_to is not None:
        second = (F.linear(emb_to, weight, bias) for weight, bias in zip(weights_to, biases_to))
        rows = [a + b for a, b in zip(rows, second)]
    return [piece for row in rows for piece in row.chunk(parts, dim=1)] if parts > 1 else rows


def torch_affine(
    emb: Tensor,
    weights: Tensors,
    biases: Tensors,
    emb_to: Tensor | None = None,
    weights_to: Tensors = (),
    biases_to: Tensors = (),
    parts: int = 1,
) -> list[Tensor]:
    """`reference` in one matrix product per noise level, or on a CPU in wide dtypes in many.

    The library's product is the best one for such sizes on every device, so there is no kernel of
    our own behind it. Many small ones lose on a GPU and in half precision, by what each costs
    before it begins; on a CPU in float32, or with long weights that are not packed, that is less
    than gathering the operands.
    """
    call = one_product
    if emb.device.type == "cpu":
        size = emb.shape[1] * sum(weight.shape[0] for weight in weights)
        long = size > GATHERED and not _consecutive(weights)
        call = reference if long or layer_dtype(emb).itemsize > 2 else one_product
    return call(emb, weights, biases, emb_to, weights_to, biases_to, parts)


def one_product(
    emb: Tensor,
    weights: Tensors,
    biases: Tensors,
    emb_to: Tensor | None = None,
    weights_to: Tensors = (),
    biases_to: Tensors = (),
    parts: int = 1,
) -> list[Tensor]:
    """`reference` with the weights of all blocks as one matrix; the pieces are views of one result.

    Its gradient is two products per noise level, and what parameters get are views as well.
    """
    weight, bias = stacked(weights), torch.cat(list(biases))
    if emb_to is None:
        rows = F.linear(emb, weight, bias)
    else:
        weight_to, bias = stacked(weights_to), bias + torch.cat(list(biases_to))
        if emb_to.shape[0] == 1:  # the product that comes first is the one that is broadcast
            emb, weight, emb_to, weight_to = emb_to, weight_to, emb, weight
        rows = torch.addmm(F.linear(emb, weight, bias), emb_to, weight_to.t())
    sizes = [weight.shape[0] // parts for weight in weights for _ in range(parts)]
    return list(rows.split(sizes, dim=1))


def pack(weights: Tensors) -> None:
    """Moves weights that take no gradient into one buffer, which `stacked` reads without a copy.

    Their values, shapes and identities stay; each becomes a view of the buffer. Moved, cast or
    copied again they are as good as any others. Plain pickle stores the whole buffer with every
    view; torch.save and safetensors do not.

    Args:
        weights: parameters of one dtype and device, (rows_i, width).

    Raises:
        ValueError: one of them requires a gradient: optimizers and others who hold on to
            parameters do not expect that they share memory.
    """
    if any(weight.requires_grad for weight in weights):
        raise ValueError("weights that require a gradient cannot be packed; freeze them first")
    buffer = torch.cat([weight.detach() for weight in weights])
    pieces = buffer.split([weight.shape[0] for weight in weights])
    for weight, piece in zip(weights, pieces):
        weight.data = piece


def stacked(weights: Tensors) -> Tensor:
    """All rows of the weights, (sum of rows_i, width): a view if packed, a copy otherwise."""
    first = weights[0]
    if _consecutive(weights):
        rows = sum(weight.shape[0] for weight in weights)
        return first.as_strided((rows, *first.shape[1:]), first.stride())
    return torch.cat(list(weights))


def _consecutive(weights: Tensors) -> bool:
    """Whether each weight begins where the one before it ends, in the storage of the first."""
    first = weights[0]
    if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return False
    # Forward derivatives of the other weights would be lost, and fake tensors have no address.
    if torch.autograd.forward_ad._current_level >= 0 or type(first) not in PLAIN or first.is_meta:
        return False
    start = end = first.data_ptr()
    dtype, size = first.dtype, first.element_size()
    for weight in weights:
        if weight.data_ptr() != end or weight.requires_grad or weight.dtype != dtype:
            return False
        if not weight.is_contiguous():
            return False
        end += weight.numel() * size
    whole = first.untyped_storage()
    return start < end <= whole.data_ptr() + whole.nbytes()


def check(
    emb: Tensor,
    weights: Tensors,
    biases: Tensors,
    emb_to: Tensor | None = None,
    weights_to: Tensors = (),
    biases_to: Tensors = (),
    parts: int = 1,
) -> None:
    """Raises ValueError unless the arguments fit together."""
    _check_layers("", emb, weights, biases, weights)
    for i, weight in enumerate(weights if parts > 1 else ()):
        if weight.shape[0] % parts:
            raise ValueError(f"weights[{i}] has {weight.shape[0]} rows, not a multiple of {parts}")
    if emb_to is None:
        if len(weights_to) or len(biases_to):
            raise ValueError("weights_to and biases_to are of no use without emb_to")
        return
    _check_layers("_to", emb_to, weights_to, biases_to, weights)
    rows = {emb.shape[0], emb_to.shape[0]}
    if emb_to.dtype != emb.dtype or len(rows | {1}) > 2:
        raise ValueError(
            f"emb_to is {emb_to.dtype} of {emb_to.shape[0]} rows; it must be {emb.dtype} of 1 or "
            f"as many rows as emb, which has {emb.shape[0]}"
        )


def _check_layers(to: str, emb: Tensor, weights: Tensors, biases: Tensors, like: Tensors) -> None:
    if emb.ndim != 2 or not emb.is_floating_point():
        raise ValueError(
            f"emb{to} is {emb.dtype} of shape {tuple(emb.shape)}; "
            "it must be (batch or 1, width) and floating"
        )
    if not len(like) == len(weights) == len(biases) > 0:
        raise ValueError(
            f"there are {len(weights)} weights{to} and {len(biases)} biases{to}; "
            f"there must be one of both for each of {len(like)} blocks, and at least one block"
        )
    width = emb.shape[1]
    for i, (weight, bias, other) in enumerate(zip(weights, biases, like)):
        shape = weight.shape
        if len(shape) != 2 or shape[1] != width or other.shape != shape:
            rows = "rows" if like is weights else other.shape[0]
            raise ValueError(
                f"weights{to}[{i}] has shape {tuple(shape)}; it must be ({rows}, {width})"
            )
        if bias.shape != (shape[0],):
            raise ValueError(
                f"biases{to}[{i}] has shape {tuple(bias.shape)}; it must be ({shape[0]},)"
            )
    if weights[0].dtype != emb.dtype and layer_dtype(weights[0]) != layer_dtype(emb):
        raise ValueError(f"emb{to} is {emb.dtype}; it must be {weights[0].dtype}, like weights{to}")


def example(
    *,
    rows: Sequence[int],
    batch: int = 3,
    batch_to: int | None = None,
    width: int = 16,
    parts: int = 1,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    """Arguments of one call; without `batch_to` there is no destination."""
    draw = Draw(seed, device)

    def layers(batch: int) -> list[Any]:
        scale = width**-0.5
        weights = [draw.normal(n, width, dtype=dtype, scale=scale) for n in rows]
        biases = [draw.normal(n, dtype=dtype) for n in rows]
        return [draw.normal(batch, width, dtype=dtype), weights, biases]

    to = [None, [], []] if batch_to is None else layers(batch_to)
    return (*layers(batch), *to, parts), {}


BFLOAT, HALF = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
SONG = [256] * 33
ADM = [384] * 4 + [768] * 4 + [1152] * 4 + [1536] * 10 + [1152] * 5 + [768] * 5 + [384] * 4
CASES: list[dict[str, Any]] = [
    {"rows": (8, 12, 8)},
    {"rows": (6, 4), "batch_to": 3, "parts": 2},
    {"rows": (32, 16), "batch": 1, "batch_to": 5, **BFLOAT},
    {"rows": (32, 16), "batch": 5, "batch_to": 1, "parts": 2, **BFLOAT},
    {"rows": (24,), "batch": 7, "batch_to": 7, "width": 33, **HALF},
    {"rows": (4, 2), "batch": 0, "batch_to": 1},
    {"rows": (5, 3), "batch": 0, "width": 7, **BFLOAT},
]
BENCH: list[dict[str, Any]] = [
    {"rows": (64, 128, 128) * 5, "batch": batch, "batch_to": batch, "width": 128, **dtype}
    for batch in (8, 128)
    for dtype in ({}, BFLOAT)
] + [{"rows": SONG, "batch": 8, "batch_to": 8, "width": 512, **dtype} for dtype in ({}, BFLOAT)]
BENCH_GPU: list[dict[str, Any]] = [
    {"rows": rows, "batch": batch, "batch_to": batch, "width": width, **BFLOAT}
    for rows, width in ((SONG, 512), (ADM, 768))
    for batch in (1, 11, 64)
]

affine = Op(
    "affine",
    reference,
    torch=torch_affine,
    check=check,
    differentiable=True,
    example=example,
    cases=CASES,
    bench=BENCH,
    bench_gpu=BENCH_GPU,
)
