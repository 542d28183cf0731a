"""Small networks of both families among the presets, for the tests of the benchmarks."""

import dataclasses

from ctm_fast.models import PRESETS

SONG = dataclasses.replace(
    PRESETS["ddpmpp-cifar10"],
    img_resolution=8,
    model_channels=16,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
)
NCSNPP = dataclasses.replace(
    SONG,
    embedding="fourier",
    encoder="residual",
    resample_filter=(1, 3, 3, 1),
    channel_mult_noise=2,
    label_dim=3,
)
SKIP = dataclasses.replace(SONG, encoder="skip", decoder="skip", adaptive_scale=True)
ADM = dataclasses.replace(
    PRESETS["adm-imagenet64"],
    img_resolution=8,
    model_channels=32,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    channels_per_head=32,
    label_dim=3,
)
TINY = {"tiny-song": SONG, "tiny-ncsnpp": NCSNPP, "tiny-skip": SKIP, "tiny-adm": ADM}
TINY |= {f"ctm-{name}": dataclasses.replace(one, destination=True) for name, one in TINY.items()}
