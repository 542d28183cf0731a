"""A U-Net in the arrangement of the published code bases, in plain PyTorch.

Written from the formulas (Song et al. 2021; Dhariwal & Nichol 2021; Karras et al. 2022) and from
what is known of the arrangement: images in NCHW order, float32 weights that every layer casts to
the compute dtype, the bias of a convolution added apart, group norm, modulation and SiLU one by
one, resampling by a depthwise convolution, attention by two `einsum`s around a float32 softmax, two
linear layers per block for the noise levels.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctm_fast.models import ADMConfig, UNet

Conv = nn.Conv2d


class OfficialNet(nn.Module):
    """Network with the weights of one of ours and the call of one of ours; not fast, on purpose.

    Args:
        net: of `ctm_fast.models`, with float32 weights (float64 for tests); it is copied.
        dtype: that convolutions and attention compute in; the noise embedding keeps that of the
            weights.
    """

    box: Tensor

    def __init__(self, net: UNet, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.source = copy.deepcopy(net).requires_grad_(True)
        for parameter in self.source.parameters():
            parameter.data = parameter.data.contiguous()
        self.config = net.config
        self.compute = dtype
        self.adm = isinstance(net.config, ADMConfig)
        self.has_destination = net.has_destination
        self.img_channels, self.img_resolution = net.img_channels, net.img_resolution
        self.label_dim = net.label_dim
        self.register_buffer("box", torch.full((1, 1, 2, 2), 0.25), persistent=False)
        self.train(net.training)

    @property
    def last_layer(self) -> Conv:
        """Layer whose weight gradient measures a loss term's size."""
        return self.source.last_layer

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        c_noise_to: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """(batch, C, H, W) in the compute dtype; arguments as for `ctm_fast.models.UNet`."""
        net: Any = self.source
        emb, emb_to = self._embed(c_noise, c_noise_to, labels)
        x = image = x.to(self.compute).contiguous()
        x = self._conv(x, net.input_conv)
        skips = [x]
        for size, level in net.enc.items():
            for name, block in level.items():
                x = self._block(block, x, emb, emb_to)
                if name == "down" and size in net.inputs:
                    x, image = self._input(net.inputs[size], x, image)
                skips.append(x)
        out: Tensor | None = None
        for size, level in net.dec.items():
            for name, block in level.items():
                if name.startswith("block"):
                    x = torch.cat([x, skips.pop()], dim=1)
                x = self._block(block, x, emb, emb_to)
            if size in net.outputs:
                out = self._output(net.outputs[size], x, out)
        assert out is not None
        return out

    def _embed(
        self, c_noise: Tensor, c_noise_to: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        net: Any = self.source
        row = None
        if net.map_label is not None and (labels is not None or not self.adm):
            weight = net.map_label.weight
            if labels is None:
                hot = weight.new_zeros(1, net.label_dim)
            elif labels.is_floating_point():
                hot = labels.to(weight.dtype)
            else:
                hot = F.one_hot(labels, net.label_dim).to(weight.dtype)
            scale = 1.0 if self.adm else math.sqrt(net.label_dim)
            row = self._linear(hot * scale, net.map_label)
        emb = self._mlp(c_noise, net.map_layer0, net.map_layer1, row)
        if c_noise_to is None:
            return emb, None
        to_row = None if self.adm else row
        return emb, self._mlp(c_noise_to, net.map_layer0_to, net.map_layer1_to, to_row)

    def _mlp(self, c_noise: Tensor, first: nn.Linear, second: nn.Linear, row: Any) -> Tensor:
        noise: Any = self.source.map_noise
        frequencies = noise.angular_frequencies()
        angles = c_noise.to(torch.promote_types(c_noise.dtype, first.weight.dtype))
        angles = angles.reshape(-1, 1) * frequencies.reshape(1, -1)
        waves = (angles.sin(), angles.cos()) if noise.sin_first else (angles.cos(), angles.sin())
        emb = torch.cat(waves, dim=1).to(first.weight.dtype)
        if row is not None and not self.adm:
            emb = emb + row
        emb = self._linear(F.silu(self._linear(emb, first)), second)
        if row is not None and self.adm:
            emb = emb + row
        return F.silu(emb)

    def _block(self, block: Any, x: Tensor, emb: Tensor, emb_to: Tensor | None) -> Tensor:
        skip = x
        h = F.silu(self._norm(x, block.norm0))
        if block.resample is not None:
            h = self._resample(h, block.resample)
        h = self._conv(h, block.conv0)
        told = self._linear(emb, block.affine)
        if emb_to is not None:
            told = told + self._linear(emb_to, block.affine_to)
        told = told[:, :, None, None].to(h.dtype)
        if block.adaptive_scale:
            scale, shift = told.chunk(2, dim=1)
            h = F.silu(torch.addcmul(shift, self._norm(h, block.norm1), scale + 1))
        else:
            h = F.silu(self._norm(h.add_(told), block.norm1))
        h = F.dropout(h, block.dropout, self.training)
        h = self._conv(h, block.conv1)
        if block.resample is not None:
            skip = self._resample(skip, block.resample)
        if block.skip is not None:
            skip = self._conv(skip, block.skip)
        x = h.add_(skip)
        x = x * block.skip_scale if block.skip_scale != 1 else x
        if not block.num_heads:
            return x
        h = self._attention(self._conv(self._norm(x, block.norm2), block.qkv), block.num_heads)
        x = self._conv(h, block.proj).add_(x)
        return x * block.skip_scale if block.skip_scale != 1 else x

    def _attention(self, qkv: Tensor, heads: int) -> Tensor:
        batch, channels, height, width = qkv.shape
        parts = qkv.reshape(batch, 3, heads, channels // (3 * heads), height * width)
        q, k, v = (part.flatten(0, 1) for part in parts.unbind(1))
        wide = torch.promote_types(qkv.dtype, torch.float32)
        scores = torch.einsum("ncq,nck->nqk", q.to(wide), (k / math.sqrt(k.shape[1])).to(wide))
        weights = scores.softmax(dim=2).to(v.dtype)
        out = torch.einsum("nqk,nck->ncq", weights, v)
        return out.reshape(batch, channels // 3, height, width)

    def _norm(self, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        if self.adm:
            wide = torch.promote_types(x.dtype, norm.weight.dtype)
            return norm(x.to(wide)).to(x.dtype)
        weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
        return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)

    @staticmethod
    def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
        x = x @ layer.weight.to(x.dtype).t()
        return x if layer.bias is None else x.add_(layer.bias.to(x.dtype))

    @staticmethod
    def _conv(x: Tensor, layer: Conv, padding: int | None = None) -> Tensor:
        padding = layer.kernel_size[0] // 2 if padding is None else padding
        x = F.conv2d(x, layer.weight.to(x.dtype), padding=padding)
        return x if layer.bias is None else x.add_(layer.bias.to(x.dtype).reshape(1, -1, 1, 1))

    def _resample(self, x: Tensor, resample: Any, padding: int | None = None) -> Tensor:
        if self.adm:
            return F.interpolate(x, scale_factor=2.0) if resample.up else F.avg_pool2d(x, 2)
        kernel = (self.box if resample.kernel is None else resample.kernel.value).to(x.dtype)
        channels = x.shape[1]
        kernel = kernel.tile(channels, 1, 1, 1)
        padding = resample.padding if padding is None else padding
        options: dict[str, Any] = {"groups": channels, "stride": 2, "padding": padding}
        if resample.up:
            return F.conv_transpose2d(x, kernel * 4, **options)
        return F.conv2d(x, kernel, **options)

    def _input(self, layer: Any, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        if layer.conv.kernel_size[0] == 1:
            image = self._resample(image, layer.resample)
            return x + self._conv(image, layer.conv), image
        image = self._conv(image, layer.conv, 1 + layer.resample.padding)
        x = (x + self._resample(image, layer.resample, 0)) / math.sqrt(2)
        return x, x

    def _output(self, layer: Any, x: Tensor, below: Tensor | None) -> Tensor:
        out = self._conv(F.silu(self._norm(x, layer.norm)), layer.conv)
        enlarge = getattr(layer, "resample", None)
        return out if below is None or enlarge is None else out + self._resample(below, enlarge)
