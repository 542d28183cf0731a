"""The U-Nets once more, as plain functions of a published state dict.

Straight from the formulas, on contiguous tensors, sharing no code with the package: loops over
heads, zero insertion for upsampling, a two-pass variance. Slow.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def linear(s: State, name: str, x: Tensor) -> Tensor:
    y = x @ s[name + ".weight"].t()
    return y + s[name + ".bias"] if name + ".bias" in s else y


def conv(s: State, name: str, x: Tensor) -> Tensor:
    weight = s[name + ".weight"]
    return F.conv2d(x, weight, s[name + ".bias"], padding=weight.shape[-1] // 2)


def normalise(s: State, name: str, x: Tensor, eps: float, groups: int) -> Tensor:
    y = x.reshape(x.shape[0], groups, -1)
    y = y - y.mean(2, keepdim=True)
    y = y / (y.square().mean(2, keepdim=True) + eps).sqrt()
    weight, bias = s[name + ".weight"], s[name + ".bias"]
    return y.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def resample(x: Tensor, taps: tuple[int, ...], up: bool, pad: int | None = None) -> Tensor:
    f = torch.tensor(taps, dtype=x.dtype)
    f = torch.outer(f, f) / f.sum() ** 2
    length, channels = len(taps), x.shape[1]
    p = (length - 1) // 2 if pad is None else pad
    if up:
        y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        y[:, :, ::2, ::2] = x
        y, f = F.pad(y, (length - 1 - p, p, length - 1 - p, p)), 4 * f
    else:
        y = F.pad(x, (p, p, p, p))
    y = F.conv2d(y, f.expand(channels, 1, -1, -1), groups=channels)
    return y if up else y[:, :, ::2, ::2]


def attend(qkv: Tensor, heads: int, rows: str) -> Tensor:
    batch, channels, height, width = qkv.shape
    channels //= 3
    dim = channels // heads
    out = []
    for h in range(heads):
        j = torch.arange(dim)
        if rows == "head,dim,3":
            picks = [h * 3 * dim + 3 * j + k for k in range(3)]
        elif rows == "3,head,dim":
            picks = [k * channels + h * dim + j for k in range(3)]
        else:
            picks = [h * 3 * dim + k * dim + j for k in range(3)]
        q, k, v = (qkv[:, rows_].flatten(2) for rows_ in picks)
        weights = (torch.einsum("bci,bcj->bij", q, k) / math.sqrt(dim)).softmax(-1)
        out.append(torch.einsum("bij,bcj->bci", weights, v))
    return torch.cat(out, 1).reshape(batch, channels, height, width)


def waves(c_noise: Tensor, half: int, last: float, swap: bool) -> Tensor:
    k = torch.arange(half, dtype=torch.float64)
    angles = c_noise.double()[:, None] * (10000 ** (-k / last)).float().double()
    parts = [angles.cos(), angles.sin()]
    return torch.cat(parts[::-1] if swap else parts, 1).to(c_noise.dtype)


def edm_block(s: State, n: str, x: Tensor, emb: Tensor, to: Tensor | None, o: dict) -> Tensor:
    """One UNetBlock of NVlabs/edm; `o` holds the options of its network."""
    up, down = n.endswith("_up"), n.endswith("_down")
    groups = lambda channels: min(32, channels // 4)  # noqa: E731
    h = F.silu(normalise(s, n + ".norm0", x, o["eps"], groups(x.shape[1])))
    skip = x
    if up or down:
        h, skip = resample(h, o["taps"], up), resample(x, o["taps"], up)
    h = conv(s, n + ".conv0", h)
    p = linear(s, n + ".affine", emb)
    if to is not None:
        p = p + linear(s, n + ".affine_s", to)
    p = p[:, :, None, None]
    channels = h.shape[1]
    if o["adaptive"]:
        scale, shift = p[:, :channels], p[:, channels:]
        h = normalise(s, n + ".norm1", h, o["eps"], groups(channels)) * (1 + scale) + shift
    else:
        h = normalise(s, n + ".norm1", h + p, o["eps"], groups(channels))
    h = conv(s, n + ".conv1", F.silu(h))
    if n + ".skip.weight" in s:
        skip = conv(s, n + ".skip", skip)
    x = (h + skip) * o["scale"]
    if n + ".qkv.weight" in s:
        h = conv(s, n + ".qkv", normalise(s, n + ".norm2", x, o["eps"], groups(channels)))
        heads = 1 if o["head"] == 0 else channels // o["head"]
        x = (conv(s, n + ".proj", attend(h, heads, "head,dim,3")) + x) * o["scale"]
    return x


def song(
    s: State,
    config: Any,
    x: Tensor,
    c_noise: Tensor,
    c_noise_to: Tensor | None = None,
    onehot: Tensor | None = None,
    augment: Tensor | None = None,
) -> Tensor:
    """NVlabs/edm's SongUNet, with the destination branch of ctm-cifar10."""
    half = config.model_channels * config.channel_mult_noise // 2

    def embed(level: Tensor, suffix: str) -> Tensor:
        if config.embedding == "fourier":
            angles = 2 * math.pi * level[:, None] * s["map_noise.freqs"]
            e = torch.cat([angles.sin(), angles.cos()], 1)
        else:
            e = waves(level, half, half - 1, swap=True)
        if config.label_dim:
            weights = x.new_zeros(1, config.label_dim) if onehot is None else onehot
            e = e + linear(s, "map_label", weights * math.sqrt(config.label_dim))
        if augment is not None and not suffix:
            e = e + linear(s, "map_augment", augment)
        e = F.silu(linear(s, "map_layer0" + suffix, e))
        return F.silu(linear(s, "map_layer1" + suffix, e))

    emb = embed(c_noise, "")
    to = None if c_noise_to is None else embed(c_noise_to, "_s")
    taps = config.resample_filter
    o = {"eps": 1e-6, "taps": taps, "adaptive": config.adaptive_scale, "head": 0}
    o["scale"] = math.sqrt(0.5)
    sizes = [config.img_resolution >> i for i in range(len(config.channel_mult))]
    aux, h = x, conv(s, f"enc.{sizes[0]}x{sizes[0]}_conv", x)
    skips = [h]
    for size in sizes:
        n = f"enc.{size}x{size}_"
        if size != sizes[0]:
            h = edm_block(s, n + "down", h, emb, to, o)
            if config.encoder == "skip":
                aux = resample(aux, taps, up=False)
                h = h + conv(s, n + "aux_skip", aux)
            if config.encoder == "residual":
                weight, bias = s[n + "aux_residual.weight"], s[n + "aux_residual.bias"]
                aux = F.conv2d(aux, weight, padding=1 + (len(taps) - 1) // 2)
                aux = resample(aux, taps, up=False, pad=0) + bias[:, None, None]
                aux = h = (h + aux) / math.sqrt(2)
            skips.append(h)
        for i in range(config.num_blocks):
            h = edm_block(s, f"{n}block{i}", h, emb, to, o)
            skips.append(h)
    out = None
    for size in reversed(sizes):
        n = f"dec.{size}x{size}_"
        for part in ("in0", "in1") if size == sizes[-1] else ("up",):
            h = edm_block(s, n + part, h, emb, to, o)
        for i in range(config.num_blocks + 1):
            h = edm_block(s, f"{n}block{i}", torch.cat([h, skips.pop()], 1), emb, to, o)
        if config.decoder == "skip" or size == sizes[0]:
            y = F.silu(normalise(s, n + "aux_norm", h, 1e-6, min(32, h.shape[1] // 4)))
            y = conv(s, n + "aux_conv", y)
            out = y if out is None else y + resample(out, taps, up=True)
    assert out is not None
    return out


def dhariwal(
    s: State,
    config: Any,
    x: Tensor,
    c_noise: Tensor,
    onehot: Tensor | None = None,
    augment: Tensor | None = None,
) -> Tensor:
    """NVlabs/edm's DhariwalUNet."""
    half = config.model_channels // 2
    e = waves(c_noise, half, half, swap=False)
    if augment is not None:
        e = e + linear(s, "map_augment", augment)
    e = linear(s, "map_layer1", F.silu(linear(s, "map_layer0", e)))
    if onehot is not None:
        e = e + linear(s, "map_label", onehot)
    emb = F.silu(e)
    o = {"eps": 1e-5, "taps": (1, 1), "adaptive": True, "scale": 1.0}
    o["head"] = config.channels_per_head
    sizes = [config.img_resolution >> i for i in range(len(config.channel_mult))]
    h = conv(s, f"enc.{sizes[0]}x{sizes[0]}_conv", x)
    skips = [h]
    for size in sizes:
        n = f"enc.{size}x{size}_"
        parts = ["down"] if size != sizes[0] else []
        for part in parts + [f"block{i}" for i in range(config.num_blocks)]:
            h = edm_block(s, n + part, h, emb, None, o)
            skips.append(h)
    for size in reversed(sizes):
        n = f"dec.{size}x{size}_"
        for part in ("in0", "in1") if size == sizes[-1] else ("up",):
            h = edm_block(s, n + part, h, emb, None, o)
        for i in range(config.num_blocks + 1):
            h = edm_block(s, f"{n}block{i}", torch.cat([h, skips.pop()], 1), emb, None, o)
    h = F.silu(normalise(s, "out_norm", h, 1e-5, min(32, h.shape[1] // 4)))
    return conv(s, "out_conv", h)


def adm(
    s: State,
    config: Any,
    x: Tensor,
    rescaled: Tensor,
    rescaled_to: Tensor | None = None,
    classes: Tensor | None = None,
    rows: str = "3,head,dim",
) -> Tensor:
    """openai's UNetModel, sony/ctm's destination branch, and what DDPM does otherwise."""
    half, eps = config.model_channels * config.channel_mult_noise // 2, config.eps
    groups = config.max_groups

    def embed(level: Tensor, name: str) -> Tensor:
        e = waves(level, half, half - config.endpoint, swap=config.sin_first)
        e = F.silu(linear(s, name + ".0", e))
        return linear(s, name + ".2", e)

    emb = embed(rescaled, "time_embed")
    if classes is not None:
        emb = emb + s["label_emb.weight"][classes]
    to = None if rescaled_to is None else embed(rescaled_to, "time_embed_s")

    def block(n: str, h: Tensor, change: str = "") -> Tensor:
        y, skip = F.silu(normalise(s, n + ".in_layers.0", h, eps, groups)), h
        if change == "up":
            y, skip = (v.repeat_interleave(2, 2).repeat_interleave(2, 3) for v in (y, skip))
        if change == "down":
            y, skip = (v.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)) for v in (y, skip))
        y = conv(s, n + ".in_layers.2", y)
        p = linear(s, n + ".emb_layers.1", F.silu(emb))
        if to is not None:
            p = p + linear(s, n + ".emb_layers_s.1", F.silu(to))
        p = p[:, :, None, None]
        if config.adaptive_scale:
            scale, shift = p.chunk(2, 1)
            y = normalise(s, n + ".out_layers.0", y, eps, groups) * (1 + scale) + shift
        else:
            y = normalise(s, n + ".out_layers.0", y + p, eps, groups)
        y = conv(s, n + ".out_layers.3", F.silu(y))
        if n + ".skip_connection.weight" in s:
            skip = conv(s, n + ".skip_connection", skip)
        return skip + y

    def attention(n: str, h: Tensor) -> Tensor:
        qkv = conv(s, n + ".qkv", normalise(s, n + ".norm", h, eps, groups))
        width = config.channels_per_head
        heads = h.shape[1] // width if width else config.num_heads
        return h + conv(s, n + ".proj_out", attend(qkv, heads, rows))

    def halved(n: str, h: Tensor) -> Tensor:
        # Every second value of the convolution that keeps the size.
        before = 0 if config.conv_padding == "after" else 1
        h = F.pad(h, (before, 1, before, 1))
        return F.conv2d(h, s[n + ".weight"], s[n + ".bias"])[:, :, ::2, ::2]

    def stage(n: str, h: Tensor, change: str = "") -> Tensor:
        if change == "down" and config.resampling == "conv":
            return halved(n + ".0.op", h)
        h = block(n + ".0", h, change)
        return attention(n + ".1", h) if n + ".1.qkv.weight" in s else h

    h = conv(s, "input_blocks.0.0", x)
    skips, index, levels = [h], 0, len(config.channel_mult)
    for level in range(levels):
        for i in range(config.num_blocks + (level > 0)):
            index += 1
            h = stage(f"input_blocks.{index}", h, "down" if level > 0 and i == 0 else "")
            skips.append(h)
    h = stage("middle_block", h)
    h = block("middle_block.2", h)
    index = 0
    for level in reversed(range(levels)):
        for i in range(config.num_blocks + 1):
            n = f"output_blocks.{index}"
            h = stage(n, torch.cat([h, skips.pop()], 1))
            if level and i == config.num_blocks:
                last = 2 if n + ".1.qkv.weight" in s else 1
                if config.resampling == "conv":
                    h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                    h = conv(s, f"{n}.{last}.conv", h)
                else:
                    h = block(f"{n}.{last}", h, "up")
            index += 1
    return conv(s, "out.2", F.silu(normalise(s, "out.0", h, eps, groups)))
