"""Load a checkpoint of any known format, sample it, and save it in ours.

    python examples/load_and_sample.py [checkpoint]

Without a checkpoint a small random one is written and read.
"""

import sys
import tempfile
from pathlib import Path

import ctm_fast
from ctm_fast.models import SongConfig, net_from_config

with tempfile.TemporaryDirectory() as folder:
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
    else:
        config = SongConfig(
            img_resolution=8,
            img_channels=1,
            model_channels=8,
            channel_mult=(1,),
            num_blocks=1,
            attn_resolutions=(),
            destination=True,
        )
        path = Path(folder) / "small.safetensors"
        ctm_fast.save(ctm_fast.Denoiser(net_from_config(config)), path)

    model = ctm_fast.load(path)  # no code of the file is run
    sampler = ctm_fast.Sampler(model, steps=2 if model.kind == "trajectory" else None)
    images = sampler(4, seed=0)
    print(f"{model.kind} model, images {tuple(images.shape)} in [-1, 1]: {images.abs().max() <= 1}")

    ctm_fast.save(model, Path(folder) / "again.safetensors")
    print(f"saved {sorted(file.name for file in Path(folder).iterdir())}")
