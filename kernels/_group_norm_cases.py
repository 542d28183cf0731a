"""Examples of the group norm: what is tested, and what is timed."""

from typing import Any

import torch

from .arguments import Draw
from .op import Call


def example(
    *,
    shape: tuple[int, int, int, int],
    groups: int = 2,
    dtype: torch.dtype = torch.float32,
    factors: torch.dtype = torch.float32,
    modulated: bool = True,
    pre: bool = False,
    act: bool = True,
    eps: float = 1e-5,
    residual: float | None = None,
    tail: int = 0,
    channels_last: bool = True,
    device: str = "cpu",
    seed: int = 0,
) -> Call:
    """Arguments of one call: images of `shape` in `dtype`, the rest in `factors`.

    `residual` is the scale of the residual sum, None for none; `tail` the channels that are
    appended, 0 for none.
    """
    draw = Draw(seed, device, channels_last)
    x = draw.normal(*shape, dtype=dtype, scale=2.0) + 1.5
    batch, channels = shape[0], shape[1] + tail
    weight, bias = (draw.normal(channels, dtype=factors) for _ in range(2))
    rows = [draw.normal(batch, channels, dtype=factors, scale=0.5) for _ in range(3)]
    scale, shift = rows[:2] if modulated else (None, None)
    args: tuple[Any, ...] = (
        x,
        groups,
        weight,
        bias,
        eps,
        scale,
        shift,
        rows[2] if pre else None,
        act,
    )
    if residual is None and not tail:
        return args, {}
    added = None if residual is None else draw.normal(*shape, dtype=dtype)
    args = (*args, added, 1.0 if residual is None else residual)
    if not tail:
        return args, {}
    return (*args, draw.normal(batch, tail, *shape[2:], dtype=dtype)), {}


BFLOAT, HALF = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
CASES: list[dict[str, Any]] = [
    {"shape": (2, 6, 5, 7), "groups": 3},
    {"shape": (3, 12, 4, 3), "groups": 4, "pre": True, **BFLOAT, "factors": torch.bfloat16},
    {"shape": (2, 36, 3, 3), "groups": 2, "pre": True, **HALF, "factors": torch.float16},
    {"shape": (0, 4, 2, 2)},
    {"shape": (2, 12, 5, 3), "residual": 0.5**0.5, **BFLOAT},
    {"shape": (2, 10, 3, 7), "groups": 5, "residual": 1.0, "act": False, "modulated": False},
    {"shape": (3, 6, 7, 3), "residual": 0.7, "pre": True, "channels_last": False, **HALF},
    {"shape": (1, 192, 9, 8), "groups": 32, "modulated": False},
    {"shape": (2, 24, 9, 8), "groups": 4, "pre": True, "channels_last": False},
    {"shape": (2, 96, 5, 3), "groups": 1, **BFLOAT, "channels_last": False},
    {"shape": (3, 64, 8, 8), "groups": 32, **BFLOAT},
    {"shape": (2, 15, 9, 9), "groups": 5, **HALF, "act": False, "channels_last": False},
    {"shape": (2, 10, 16, 17), "groups": 10, "act": False, "pre": True, "modulated": False},
    {"shape": (5, 8, 1, 1), "groups": 2, "pre": True, "seed": 1},
    {"shape": (1, 1, 3, 5), "groups": 1},
    {"shape": (1, 4, 1, 1), "groups": 2},
    {"shape": (2, 7, 5, 3), "tail": 5, "groups": 3, "residual": 0.5**0.5, **BFLOAT},
    {"shape": (3, 10, 4, 5), "tail": 14, "groups": 8, "pre": True},
    {"shape": (2, 9, 3, 7), "tail": 5, "residual": 0.7, **HALF, "channels_last": False},
    {"shape": (1, 40, 6, 3), "tail": 24, "groups": 16, **BFLOAT, "channels_last": False},
    {"shape": (2, 33, 5, 9), "tail": 31, "groups": 2, "residual": 1.0, "act": False, **HALF},
    {"shape": (0, 4, 2, 2), "tail": 2},
    {"shape": (2, 24, 5, 5), "tail": 8, "groups": 4, "residual": 0.7},
]
BENCH: list[dict[str, Any]] = [
    {"shape": (128, 64, 8, 8), "groups": 16, **BFLOAT, "factors": torch.bfloat16},
    {"shape": (128, 64, 8, 8), "groups": 16},
    {"shape": (128, 128, 4, 4), "groups": 32, **BFLOAT, "factors": torch.bfloat16},
    {"shape": (128, 128, 4, 4), "groups": 32},
    *(
        {"shape": (8, c, w, w), "groups": 32, "modulated": modulated, **dtypes}
        for c, w in ((256, 32), (192, 64))
        for modulated in (False, True)
        for dtypes in ({**BFLOAT, "factors": torch.bfloat16}, {})
    ),
    *(
        {"shape": (8, 256, w, w), "tail": 256, "groups": 32, "residual": 0.5**0.5, **BFLOAT}
        for w in (32, 16)
    ),
]
# Channels and width of the images in the U-Nets: DDPM++ (pre), ADM (modulated).
DDPMPP = [(256, 32), (512, 32), (256, 16), (512, 16), (384, 32), (256, 8), (512, 8), (128, 32)]
ADM = [
    *((c, 64) for c in (192, 384, 576)),
    *((c, 32) for c in (192, 384, 576, 768, 960)),
    *((c, 16) for c in (384, 576, 768, 960, 1152, 1344)),
    *((c, 8) for c in (576, 768, 1344, 1536)),
]
TRAINED = {"groups": 32, **BFLOAT, "factors": torch.bfloat16}
PRE = {**TRAINED, "modulated": False, "pre": True, "eps": 1e-6}
PLAIN = {"modulated": False, "pre": False, "act": False}
BENCH_GPU: list[dict[str, Any]] = [
    *({"shape": (64, c, w, w), **PRE} for c, w in DDPMPP),
    *({"shape": (64, c, w, w), **TRAINED} for c, w in ADM),
    *({"shape": (11, c, w, w), **PRE} for c, w in ((256, 32), (256, 16))),
    *({"shape": (11, c, w, w), **TRAINED} for c, w in ((192, 64), (384, 32), (576, 16), (768, 8))),
    *({"shape": (1, c, w, w), **TRAINED} for c, w in ((192, 64), (576, 16))),
    {"shape": (64, 256, 16, 16), **PRE, **PLAIN, "residual": 0.5**0.5},
    *(
        {"shape": (64, c, w, w), **TRAINED, **PLAIN, "residual": 1.0}
        for c, w in ((384, 32), (768, 8))
    ),
    {"shape": (64, 256, 16, 16), "tail": 256, **PRE, "residual": 0.5**0.5},
    *({"shape": (64, c, w, w), **TRAINED, **HALF} for c, w in ((192, 64), (384, 32), (576, 8))),
    *(
        {"shape": (64, c, w, w), **TRAINED, "dtype": torch.float32}
        for c, w in ((192, 64), (256, 32))
    ),
]
