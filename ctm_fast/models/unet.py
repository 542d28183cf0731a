"""`UNet`: the encoder-decoder that SongUNet and ADMUNet share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels.affine import pack
from .blocks import BlockStyle, ResBlock
from .configs import Config, resolutions
from .embeddings import class_embedding, keep_some_rows
from .layers import Conv2d, Linear, channels_last


class UNet(nn.Module, ABC):
    """Residual blocks at a few resolutions, with skips from encoder to decoder.

    A subclass sets the embedding layers, `inputs` (where the image enters again), `outputs` (where
    the output is read), and calls `initialise`.

    Args:
        config: sizes.
        style: what all residual blocks have in common.
        first_width: channels after the input convolution.
        attend_decoder: attention in every decoder block of an attention resolution; False: in the
            last one only.
        attend_bottleneck: attention between encoder and decoder.
    """

    inputs: nn.ModuleDict
    outputs: nn.ModuleDict
    map_label: Linear | None
    map_augment: Linear | None

    def __init__(
        self,
        config: Config,
        style: BlockStyle,
        *,
        first_width: int,
        attend_decoder: bool,
        attend_bottleneck: bool,
    ) -> None:
        super().__init__()
        self.config = config
        widths = [config.model_channels * factor for factor in config.channel_mult]
        sizes = resolutions(config)
        self.input_conv = Conv2d(config.img_channels, first_width, 3)
        skips, channels = [first_width], first_width
        self.enc = nn.ModuleDict()
        for size, width in zip(sizes, widths, strict=True):
            level = self.enc[f"{size}x{size}"] = nn.ModuleDict()
            if size != sizes[0]:
                level["down"] = ResBlock(channels, channels, style, down=True)
                skips.append(channels)
            for i in range(config.num_blocks):
                attend = size in config.attn_resolutions
                level[f"block{i}"] = ResBlock(channels, width, style, attention=attend)
                skips.append(width)
                channels = width
        self.dec = nn.ModuleDict()
        for size, width in zip(reversed(sizes), reversed(widths), strict=True):
            level = self.dec[f"{size}x{size}"] = nn.ModuleDict()
            if size == sizes[-1]:
                level["in0"] = ResBlock(channels, channels, style, attention=attend_bottleneck)
                level["in1"] = ResBlock(channels, channels, style)
            else:
                level["up"] = ResBlock(channels, channels, style, up=True)
            for i in range(config.num_blocks + 1):
                attend = size in config.attn_resolutions
                attend = attend and (attend_decoder or i == config.num_blocks)
                incoming = channels + skips.pop()
                level[f"block{i}"] = ResBlock(incoming, width, style, attention=attend)
                channels = width

    @property
    def img_channels(self) -> int:
        """Channels of an image."""
        return self.config.img_channels

    @property
    def img_resolution(self) -> int:
        """Height and width of an image, in pixels."""
        return self.config.img_resolution

    @property
    def label_dim(self) -> int:
        """Number of classes; 0 for an unconditional network."""
        return self.config.label_dim

    @property
    def augment_dim(self) -> int:
        """Number of augmentation labels; 0 for none."""
        return self.config.augment_dim

    @property
    def has_destination(self) -> bool:
        """Whether the network is told the noise level that it jumps to."""
        return self.config.destination

    @property
    @abstractmethod
    def last_layer(self) -> Conv2d:
        """Layer whose weight gradient measures a loss term's size (CTM's adaptive weights)."""

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        c_noise_to: Tensor | None = None,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Raw output F: (batch, C, H, W), channels-last, dtype of the weights.

        Args:
            x: (batch, C, H, W) scaled noisy images in the dtype of the weights.
            c_noise: (batch,) or (1,) noise level as the preconditioning encodes it.
            c_noise_to: the same of the level jumped to, for networks with a destination embedding.
            labels: (batch,) integer classes, (batch or 1, label_dim) float weights of the classes,
                or None for no class.
            augment_labels: (batch, augment_dim) float, or None for no augmentation.

        Raises:
            ValueError: for shapes, classes or arguments that do not suit the network. Class
                numbers are looked at on the CPU only.
        """
        emb, emb_to = self._checked_embed(x, c_noise, c_noise_to, labels, augment_labels)
        blocks = [*blocks_of(self.enc), *blocks_of(self.dec)]
        modulations = self._modulations(blocks, emb, emb_to)
        x, skips, _ = self._encode(x, modulations)
        out: Tensor | None = None
        for size, level in levels(self.dec):
            for name, block in level.items():
                if name.startswith("block"):
                    x = torch.cat([x, skips.pop()], dim=1)
                x = block(x, next(modulations))
            if size in self.outputs:
                out = self.outputs[size](x, out)
        assert out is not None
        return out

    def features(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        c_noise_to: Tensor | None = None,
    ) -> list[Tensor]:
        """Encoder activations at the end of every resolution, finest first; no decoder is run.

        Args:
            x: (batch, C, H, W), as in `forward`.
            c_noise: as in `forward`.
            labels: as in `forward`.
            c_noise_to: as in `forward`.

        Returns:
            (batch, C_i, H / 2^i, W / 2^i) for every resolution i.
        """
        emb, emb_to = self._checked_embed(x, c_noise, c_noise_to, labels, None)
        return self._encode(x, self._modulations(blocks_of(self.enc), emb, emb_to))[2]

    def pack(self) -> None:
        """Lays the weights of all blocks' `affine` layers out as one matrix, in the same memory.

        Spares a frozen network their copy at every call. A cast, moved or copied network makes the
        copy again until it is packed again; no result depends on it.

        Raises:
            ValueError: if one of these weights requires a gradient.
        """
        blocks = [*blocks_of(self.enc), *blocks_of(self.dec)]
        pack([block.affine.weight for block in blocks])
        if self.has_destination:
            pack([layer.weight for layer in _to_destination(blocks)])

    @abstractmethod
    def embed(
        self,
        c_noise: Tensor,
        c_noise_to: Tensor | None,
        labels: Tensor | None,
        augment_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the blocks are told: (batch or 1, emb_channels) of the level and the destination."""

    def _modulations(
        self, blocks: Sequence[ResBlock], emb: Tensor, emb_to: Tensor | None
    ) -> Iterator[tuple[Tensor, ...]]:
        """What the embeddings make every block do, in order; see `ResBlock.forward`."""
        layers = [block.affine for block in blocks]
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        layers = [] if emb_to is None else _to_destination(blocks)
        to = [layer.weight for layer in layers], [layer.bias for layer in layers]
        parts = 2 if self.config.adaptive_scale else 1
        pieces = iter(kernels.affine(emb, weights, biases, emb_to, *to, parts))
        return zip(*[pieces] * parts)

    def _encode(
        self, x: Tensor, modulations: Iterator[tuple[Tensor, ...]]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        image = channels_last(x)
        x = self.input_conv(image)
        skips, features = [x], []
        for size, level in levels(self.enc):
            for name, block in level.items():
                x = block(x, next(modulations))
                if name == "down" and size in self.inputs:
                    x, image = self.inputs[size](x, image)
                skips.append(x)
            features.append(x)
        return x, skips, features

    def _checked_embed(
        self,
        x: Tensor,
        c_noise: Tensor,
        c_noise_to: Tensor | None,
        labels: Tensor | None,
        augment_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        batch = x.shape[0]
        if x.ndim != 4 or x.shape[1] != self.img_channels:
            raise ValueError(
                f"images have shape {tuple(x.shape)}; this network takes "
                f"(batch, {self.img_channels}, H, W)"
            )
        step = 2 ** (len(self.enc) - 1)
        if x.shape[2] % step or x.shape[3] % step:
            raise ValueError(
                f"images have {x.shape[2]}x{x.shape[3]} pixels; height and width must divide by "
                f"{step}"
            )
        _check_levels("c_noise", c_noise, batch)
        if c_noise_to is not None:
            if not self.has_destination:
                raise ValueError(
                    "c_noise_to was given, but this network has no destination embedding"
                )
            _check_levels("c_noise_to", c_noise_to, batch)
        if labels is not None:
            self._check_labels(labels, batch)
        if augment_labels is not None and augment_labels.shape[1:] != (self.augment_dim,):
            raise ValueError(
                f"augment_labels have shape {tuple(augment_labels.shape)}; this network takes "
                f"({batch}, {self.augment_dim})"
            )
        return self.embed(c_noise, c_noise_to, labels, augment_labels)

    def _check_labels(self, labels: Tensor, batch: int) -> None:
        classes = self.label_dim
        if classes == 0:
            raise ValueError("labels were given, but this network is unconditional (label_dim=0)")
        if labels.is_floating_point():
            if labels.shape not in ((batch, classes), (1, classes)):
                raise ValueError(
                    f"float labels have shape {tuple(labels.shape)}; need ({batch}, {classes})"
                )
            return
        if labels.shape != (batch,):
            raise ValueError(f"integer labels have shape {tuple(labels.shape)}; need ({batch},)")
        # Looking at numbers on a GPU would wait for it.
        if labels.device.type == "cpu" and not torch.compiler.is_compiling() and batch:
            low, high = (int(value) for value in labels.aminmax())
            if low < 0 or high >= classes:
                raise ValueError(f"labels range from {low} to {high}; classes are 0..{classes - 1}")

    def _label_rows(self, labels: Tensor) -> Tensor:
        assert self.map_label is not None
        rows = class_embedding(labels, self.map_label.weight)
        drop = self.config.label_dropout
        return keep_some_rows(rows, drop) if drop and self.training else rows


def levels(side: nn.ModuleDict) -> Iterator[tuple[str, dict[str, ResBlock]]]:
    """("HxW", blocks by name) of every resolution, in the order in which they run."""
    for size, level in side.items():
        assert isinstance(level, nn.ModuleDict)
        yield size, dict(level.items())  # type: ignore[arg-type]


def blocks_of(side: nn.ModuleDict) -> list[ResBlock]:
    """All blocks, in the order in which they run."""
    return [block for level in side.values() for block in level.values()]  # type: ignore[operator]


def _to_destination(blocks: Sequence[ResBlock]) -> list[Linear]:
    return [block.affine_to for block in blocks if block.affine_to is not None]


def _check_levels(name: str, levels: Tensor, batch: int) -> None:
    if levels.shape not in ((batch,), (1,)):
        raise ValueError(f"{name} has shape {tuple(levels.shape)}; need ({batch},) or (1,)")
