"""Any codebase with a known network: one line makes it faster, the rest stays as it is.

    net = ctm_fast.accelerate(net)                      # EDM, ECT, openai, sony/ctm, diffusers

The network is rebuilt on the layers of ctm_fast and compared with the original; what comes back is
called as before. Here it is diffusers' UNet2DModel in a pipeline.

    python examples/accelerate_foreign.py
"""

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

import ctm_fast

torch.manual_seed(0)
unet = UNet2DModel(
    sample_size=16,
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    norm_num_groups=8,
)
pipe = DDIMPipeline(unet, DDIMScheduler())
pipe.set_progress_bar_config(disable=True)


def images():
    generator = torch.Generator().manual_seed(0)
    return pipe(batch_size=2, num_inference_steps=5, generator=generator, output_type="np").images


before = images()
pipe.unet = ctm_fast.accelerate(pipe.unet, torch.float32)  # by default bfloat16 where that is fast
after = images()
print(f"{pipe.unet.host_class}: {after.shape}, largest difference {abs(after - before).max():.0e}")
