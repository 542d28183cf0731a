"""Tiny models of diffusers. Without diffusers every test that asks for one fails."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

_TINY = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
# Options of UNet2DModel in the manner of published networks.
FAMILIES: dict[str, dict[str, Any]] = {
    # openai/diffusers-cd_imagenet64_l2
    "consistency": {
        **_TINY,
        "num_class_embeds": 5,
        "attention_head_dim": 8,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 4,
    },
    # google/ddpm-cifar10-32 and its siblings
    "ddpm": {
        **_TINY,
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
    },
    # what diffusers' own training examples make: everything else as it is by default
    "example": {**_TINY, "in_channels": 1, "out_channels": 1, "dropout": 0.1},
    "uneven": {
        **_TINY,
        "block_out_channels": (8, 12),
        "attention_head_dim": 4,
        "time_embedding_dim": 20,
        "add_attention": False,
        "resnet_time_scale_shift": "scale_shift",
    },
    "one level": {
        **_TINY,
        "block_out_channels": (8,),
        "down_block_types": ("UNetResAttnDownBlock2D",),
        "up_block_types": ("UNetResAttnUpBlock2D",),
        "attention_head_dim": 2,
        "norm_eps": 0.01,
    },
    "deeper": {
        **_TINY,
        "block_out_channels": (8, 16, 24),
        "num_class_embeds": 3,
        "down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
}


def library() -> ModuleType:
    """The diffusers package; the test fails where it is missing."""
    try:
        import diffusers
    except ImportError as error:
        pytest.fail(f"tests need the extra `test`, diffusers is missing: {error}")
    return diffusers


def tiny(family: str, seed: int = 0, **changes: Any) -> Any:
    """UNet2DModel of a family in eval mode, whose every parameter is drawn."""
    model = library().UNet2DModel(**{**FAMILIES[family], **changes})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            fan_in = max(1, weight[0].numel()) if weight.ndim > 1 else 4
            values = torch.randn(weight.shape, generator=generator) / fan_in**0.5
            weight.copy_(values + 1 if "norm" in name and "weight" in name else values)
    return model.eval()


def inputs(model: Any, batch: int = 3, seed: int = 1) -> dict[str, Any]:
    """x (batch, C, 8, 8) and labels, or None, for a tiny model."""
    generator = torch.Generator().manual_seed(seed)
    classes = model.config.num_class_embeds
    return {
        "x": torch.randn(batch, model.config.in_channels, 8, 8, generator=generator),
        "labels": None if classes is None else torch.arange(batch) % classes,
    }
