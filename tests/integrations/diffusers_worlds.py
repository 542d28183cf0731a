"""What the tests of the diffusers door share: tiny networks, a consistency pipeline, a loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctm_fast.denoiser import Denoiser
from ctm_fast.models import SongConfig, net_from_config
from ctm_fast.precond import CM, EDM, Preconditioning

TINY = dict(model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=())


def denoiser(
    kind: str = "trajectory", channels: int = 1, label_dim: int = 0, **options: Any
) -> Denoiser:
    """Random network on 8x8 images whose output is far from zero."""
    config = SongConfig(
        img_resolution=8,
        img_channels=channels,
        label_dim=label_dim,
        destination=kind == "trajectory",
        dropout=0.3,
        **TINY,
    )
    net = net_from_config(config, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    inner = EDM(0.5) if kind == "trajectory" else CM(0.5)
    return Denoiser(net, Preconditioning(inner), kind=kind, **options)


def unit_noise(num: int, channels: int = 1, seed: int = 0) -> Tensor:
    """(num, channels, 8, 8) Gaussian noise."""
    return torch.randn(num, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def consistency_pipeline(scheduler: Any) -> Any:
    """diffusers' own pipeline with a tiny random class-conditional UNet2DModel."""
    from diffusers import ConsistencyModelPipeline, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        num_class_embeds=4,
        norm_num_groups=4,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
    )
    pipe = ConsistencyModelPipeline(unet.eval(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def deterministic_sample() -> Tensor:
    """(4, 3, 8, 8) ramp, strided as diffusers' scheduler tests make it."""
    return torch.arange(768).reshape(3, 8, 8, 4).permute(3, 0, 1, 2) / 768


def dummy_output(scaled: Tensor, t: Tensor) -> Tensor:
    """A "network" of diffusers' scheduler tests: x t / (t + 1)."""
    t = torch.as_tensor(t).to(scaled.dtype)
    return scaled * t / (t + 1)


def loop(scheduler: Any, sample: Tensor, seed: int = 0) -> Tensor:
    """A host's loop over all timesteps."""
    generator = torch.Generator().manual_seed(seed)
    for t in scheduler.timesteps:
        output = dummy_output(scheduler.scale_model_input(sample, t), t)
        sample = scheduler.step(output, t, sample, generator=generator).prev_sample
    return sample
