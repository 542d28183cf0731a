"""Small networks with random, nowhere zero, weights."""

from __future__ import annotations

import torch

from ctm_fast.models import ADMConfig, SongConfig, UNet, net_from_config

SONG = SongConfig(
    img_resolution=8,
    img_channels=2,
    label_dim=3,
    augment_dim=2,
    model_channels=16,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    dropout=0.2,
)
ADM = ADMConfig(
    img_resolution=8,
    img_channels=2,
    label_dim=3,
    model_channels=32,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    channels_per_head=32,
    dropout=0.2,
)


def randomised(config: SongConfig | ADMConfig, seed: int = 0) -> UNet:
    """Network in eval mode, float64, whose every parameter is drawn (none is zero)."""
    net = net_from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
            values = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
            parameter.copy_(values + 1 if "norm" in name and "weight" in name else values)
    return net.eval().double()


def inputs(
    config: SongConfig | ADMConfig, batch: int = 3, seed: int = 1
) -> dict[str, torch.Tensor]:
    """x, c_noise, c_noise_to, onehot, classes, augment in float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    size = config.img_resolution
    classes = torch.arange(batch) % max(1, config.label_dim)
    return {
        "x": draw(batch, config.img_channels, size, size),
        "c_noise": draw(batch),
        "c_noise_to": draw(batch),
        "classes": classes,
        "onehot": torch.eye(max(1, config.label_dim), dtype=torch.float64)[classes],
        "augment": draw(batch, config.augment_dim),
    }
