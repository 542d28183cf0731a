"""Frozen feature networks for a discriminator: which one, and its modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..registry import Registry
from ..rng import stream
from .projector import WIDTH, FrozenConv, Maps, TokenPyramid, check_maps
from .timm_nets import TIMM, TimmNet, three_channels
from .weight_files import check_sha256, read_weights, weight_file

Features = Callable[
    [Tensor], Sequence[Tensor]
]  # images -> maps (batch, C_i, H_i, W_i), finest first


class Parts(NamedTuple):
    """Modules of a backbone."""

    network: nn.Module | None  # frozen, images -> maps; None: the caller's features are used
    adapter: nn.Module | None  # random and frozen, maps -> maps; saved with the discriminator
    maps: Maps  # (channels, size) of the maps after the adapter


class Backbone(Protocol):
    """Choice of a frozen feature network."""

    width: int

    def parts(self, teacher_maps: Maps | None, seed: Sequence[int]) -> Parts:
        """Its modules; `seed` numbers the random stream of its adapter."""
        ...


def _check_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")


@dataclass(frozen=True)
class TeacherEncoder:
    """Activations of the frozen teacher's encoder at a low noise level; no external weights.

    Raises:
        ValueError: unless sigma > 0 and width >= 1.

    Source: a teacher's features for a discriminator: Sauer et al. 2024 (LADD, arXiv:2403.12015).
    """

    sigma: float = 0.1  # noise level told to the encoder, > 0
    width: int = WIDTH  # channels of the finest projected map; 8 to 16 suit 8x8 images

    def __post_init__(self) -> None:
        _check_width(self.width)
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")

    def features(self, teacher: Any, labels: Tensor | None = None) -> Features:
        """Callable images -> encoder activations of `teacher`, a `ctm_fast.Denoiser`.

        Gradients reach the images; whether they reach the teacher is up to its parameters.

        Args:
            teacher: whose encoder.
            labels: (batch,) classes of all images that will be given, or None.
        """

        def maps(images: Tensor) -> Sequence[Tensor]:
            level = images.new_full((len(images),), self.sigma)
            c_in = teacher.precond.c_in(level).reshape(-1, 1, 1, 1)
            found: Sequence[Tensor] = teacher.features(
                c_in * images, teacher.precond.c_noise(level), labels
            )
            return found

        return maps

    def maps(self, teacher: Any) -> Maps:
        """(channels, size) of every map of `teacher`, for `discriminator(channels_of_teacher=)`."""
        weight = next(teacher.parameters(), torch.empty(0))
        shape = (1, teacher.img_channels, teacher.img_resolution, teacher.img_resolution)
        labels = torch.zeros(1, dtype=torch.int64, device=weight.device)
        with torch.no_grad():
            found = self.features(teacher, labels if teacher.label_dim else None)(
                torch.zeros(shape, device=weight.device)
            )
        return tuple((m.shape[1], m.shape[2]) for m in found)

    def parts(self, teacher_maps: Maps | None, seed: Sequence[int]) -> Parts:
        """No modules: the maps are the teacher's.

        Raises:
            ValueError: without `teacher_maps`.
        """
        if teacher_maps is None:
            raise ValueError(
                "TeacherEncoder needs channels_of_teacher=[(channels, size), ...] of the teacher's "
                "encoder, finest first; TeacherEncoder().maps(teacher) gives them"
            )
        return Parts(None, None, check_maps(teacher_maps))


@dataclass(frozen=True)
class Timm:
    """A network of timm with published ImageNet weights from a local file (extra `gan`).

    The file is a `.safetensors` or PyTorch file of timm's or the authors' own state dict. Without
    `file` it is looked for, under its published name, in the folder `CTM_WEIGHTS_DIR` and among
    the files that torch.hub has kept. Nothing is ever downloaded. Images below 256 pixels, and
    all images of a vision transformer, are resized to 224.

    Raises:
        ValueError: for an unknown model, or a sha256 or width that cannot be; when it is built,
            for absent weights, weights with another hash, or weights of another network.
    """

    model: str = "deit_base_distilled_patch16_224"  # or tf_efficientnet_lite0; see timm_nets.TIMM
    file: str = ""  # path of the weights, or name of a file in the folder CTM_WEIGHTS_DIR
    sha256: str = ""  # of the file, 8 or more digits; "": as in a name like net-0aa007d2.pth
    width: int = WIDTH  # channels of the finest projected map

    def __post_init__(self) -> None:
        _check_width(self.width)
        check_sha256(self.sha256)
        if self.model not in TIMM:
            raise ValueError(f"unknown timm model {self.model!r}; choose from {sorted(TIMM)}")

    def parts(self, teacher_maps: Maps | None, seed: Sequence[int]) -> Parts:
        """The network, and for a vision transformer the layers that make a pyramid of its maps.

        Raises:
            ValueError: see the class.
            ImportError: without timm.
        """
        facts = TIMM[self.model]
        path = weight_file(self.file, facts.files, facts.where(self.model))
        network = TimmNet(self.model, read_weights(path, self.sha256), str(path))
        adapter = TokenPyramid(network.channels[0], seed) if facts.tokens else None
        channels = network.channels if adapter is None else adapter.widths
        return Parts(network, adapter, tuple(zip(channels, (56, 28, 14, 7))))


@dataclass(frozen=True)
class RandomFeatures:
    """A small random frozen convolutional network: for trying the plumbing, not for quality.

    Three maps of 16, 32 and 64 channels at 1/2, 1/4 and 1/8 of `resolution`.

    Raises:
        ValueError: unless allow_random is set; for a bad resolution or width.
    """

    seed: int = 0  # any integer
    allow_random: bool = False  # must be set: results with random features say nothing
    resolution: int = 32  # images are resized to it (bilinear); a multiple of 8
    width: int = 16  # channels of the finest projected map

    def __post_init__(self) -> None:
        _check_width(self.width)
        if not self.allow_random:
            raise ValueError(
                "RandomFeatures are for plumbing tests only and need allow_random=True; use "
                "TeacherEncoder, or Timm with a weight file"
            )
        if self.resolution < 8 or self.resolution % 8:
            raise ValueError(f"resolution must be a positive multiple of 8, got {self.resolution}")

    def parts(self, teacher_maps: Maps | None, seed: Sequence[int]) -> Parts:
        """The network; its weights depend on its own seed only."""
        network = RandomNet(self.seed, self.resolution)
        sizes = (self.resolution // 2, self.resolution // 4, self.resolution // 8)
        return Parts(network, None, tuple(zip(RandomNet.CHANNELS, sizes)))


class RandomNet(nn.Module):
    """Network of `RandomFeatures`: 4x4 convolutions of stride 2, each with leaky ReLU."""

    CHANNELS = (16, 32, 64)

    def __init__(self, seed: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.layers = nn.ModuleList(
            FrozenConv(c, w, stream(seed, i), kernel=4, stride=2, padding=1, gain=6**0.5)
            for i, (c, w) in enumerate(zip((3, *self.CHANNELS), self.CHANNELS))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Three maps, finest first, for images (batch, 1 or 3, H, W)."""
        x = three_channels(images)
        if x.shape[-2:] != (self.resolution, self.resolution):
            size = (self.resolution, self.resolution)
            x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
        x = x.to(self.layers[0].weight.dtype)  # type: ignore[arg-type]
        found: list[Tensor] = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
            found.append(x)
        return found


AnyBackbone = TeacherEncoder | Timm | RandomFeatures
BACKBONES = Registry(
    "backbone",
    {
        "teacher_encoder": "ctm_fast.models.feature_nets:TeacherEncoder",
        "timm": "ctm_fast.models.feature_nets:Timm",
        "random": "ctm_fast.models.feature_nets:RandomFeatures",
    },
)
