"""`UNet`: the encoder-decoder that SongUNet and ADMUNet share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels.affine import pack
from .arguments import check_conditions, check_images
from .blocks import BlockStyle, ResBlock, settled
from .configs import Config
from .embeddings import class_embedding, keep_some_rows
from .layers import Conv2d, Linear, channels_last
from .levels import blocks_of, decoder, encoder, levels


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
        self.skip_scale = style.skip_scale
        self.input_conv = Conv2d(config.img_channels, first_width, 3)
        self.enc, skips = encoder(config, style, first_width)
        self.dec = decoder(config, style, skips, attend_decoder, attend_bottleneck)

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
    def last_layer(self) -> nn.Conv2d:
        """Layer whose weight gradient measures a loss term's size (CTM's adaptive weights)."""

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor | None = None,
        c_noise_to: Tensor | None = None,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """Raw output F: (batch, C, H, W), channels-last, dtype of the weights.

        Args:
            x: (batch, C, H, W) scaled noisy images in the dtype of the weights.
            c_noise: (batch,) or (1,) noise level as the preconditioning encodes it.
            c_noise_to: the same of the level jumped to, for networks with a destination embedding.
            labels: (batch,) integer classes, (batch or 1, label_dim) float weights of the classes,
                or None for no class.
            augment_labels: (batch, augment_dim) float, or None for no augmentation.
            modulation: what `modulation` made of all these, instead of them.

        Raises:
            ValueError: for shapes, classes or arguments that do not suit the network. Class
                numbers are looked at on the CPU only.
        """
        check_images(self.config, x)
        blocks = [*blocks_of(self.enc), *blocks_of(self.dec)]
        if modulation is None:
            emb = self._checked_embed(len(x), c_noise, c_noise_to, labels, augment_labels)
            modulations = self._modulations(blocks, *emb)
        else:
            modulations = self._handed_out(modulation, blocks, len(x))
        x, plus, skips = self._encode(x, modulations)
        out: Tensor | None = None
        for size, level in levels(self.dec):
            for name, block in level.items():
                tail = skips.pop() if name.startswith("block") else None
                told = next(modulations) if isinstance(block, ResBlock) else ()
                entered, x, plus = block(x, told, plus, tail)
                if name == "in0":
                    skips.append(entered)
            if size in self.outputs:
                out, x = self.outputs[size](x, plus, out)
                plus = None
        assert out is not None
        return out

    def modulation(
        self,
        c_noise: Tensor,
        c_noise_to: Tensor | None = None,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """All that the network is told besides the images, (batch or 1, width); see `forward`.

        Where the same levels come again it can be kept, for example for a grid of them.
        """
        batch = max(len(t) for t in (c_noise, c_noise_to, labels, augment_labels) if t is not None)
        emb = self._checked_embed(batch, c_noise, c_noise_to, labels, augment_labels)
        blocks = [*blocks_of(self.enc), *blocks_of(self.dec)]
        pieces = [piece for pieces in self._modulations(blocks, *emb) for piece in pieces]
        return torch.cat(pieces, dim=1)

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
        check_images(self.config, x)
        emb = self._checked_embed(len(x), c_noise, c_noise_to, labels, None)
        modulations = self._modulations(blocks_of(self.enc), *emb)
        x, plus, entered = self._encode(x, modulations)
        # A level ends where the block after it enters.
        ends = accumulate(len(level) for _, level in levels(self.enc))
        entered.append(settled(x, plus, self.skip_scale))
        return [entered[end] for end in ends]

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

    def _handed_out(
        self, modulation: Tensor, blocks: Sequence[ResBlock], batch: int
    ) -> Iterator[tuple[Tensor, ...]]:
        """The pieces of `modulation`, block by block."""
        parts = 2 if self.config.adaptive_scale else 1
        sizes = [b.affine.out_features // parts for b in blocks for _ in range(parts)]
        if modulation.shape not in ((batch, sum(sizes)), (1, sum(sizes))):
            raise ValueError(
                f"modulation has shape {tuple(modulation.shape)}; this network takes "
                f"({batch} or 1, {sum(sizes)})"
            )
        return zip(*[iter(modulation.split(sizes, dim=1))] * parts)

    def _encode(
        self, x: Tensor, modulations: Iterator[tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Both parts of the last activations (see `ResBlock.forward`), and all blocks' inputs."""
        image = channels_last(x)
        x, plus = self.input_conv(image), None
        inputs = []
        for size, level in levels(self.enc):
            for name, block in level.items():
                told = next(modulations) if isinstance(block, ResBlock) else ()
                entered, x, plus = block(x, told, plus)
                inputs.append(entered)
                if name == "down" and size in self.inputs:
                    x, image = self.inputs[size](settled(x, plus, self.skip_scale), image)
                    plus = None
        return x, plus, inputs

    def _checked_embed(
        self,
        batch: int,
        c_noise: Tensor | None,
        c_noise_to: Tensor | None,
        labels: Tensor | None,
        augment_labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        check_conditions(self.config, batch, c_noise, c_noise_to, labels, augment_labels)
        assert c_noise is not None
        return self.embed(c_noise, c_noise_to, labels, augment_labels)

    def _label_rows(self, labels: Tensor) -> Tensor:
        assert self.map_label is not None
        rows = class_embedding(labels, self.map_label.weight)
        drop = self.config.label_dropout
        return keep_some_rows(rows, drop) if drop and self.training else rows


def _to_destination(blocks: Sequence[ResBlock]) -> list[Linear]:
    return [block.affine_to for block in blocks if block.affine_to is not None]
