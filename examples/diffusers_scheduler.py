"""diffusers: our scheduler in a consistency pipeline that exists already; two lines change."""

import numpy as np
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel

from ctm_fast.integrations.diffusers import CTMScheduler  # new

# A tiny random network; with a published one, the next lines are
# pipe = ConsistencyModelPipeline.from_pretrained("openai/diffusers-cd_imagenet64_l2").
unet = UNet2DModel(
    sample_size=8,
    layers_per_block=1,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    norm_num_groups=4,
)
pipe = ConsistencyModelPipeline(unet.eval(), CMStochasticIterativeScheduler())
pipe.set_progress_bar_config(disable=True)


def images() -> np.ndarray:
    """Two images in two steps, (2, 8, 8, 3)."""
    generator = torch.Generator().manual_seed(0)
    run = dict(num_inference_steps=None, timesteps=[22, 0], generator=generator)
    return pipe(batch_size=2, output_type="np", **run).images


before = images()
pipe.scheduler = CTMScheduler.from_config(pipe.scheduler.config)  # new
difference = np.abs(images() - before).max()
print(f"two-step images {before.shape}, largest difference after the change {difference:.1e}")
assert difference <= 1e-6
