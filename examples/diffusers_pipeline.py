"""diffusers: a CTM model as a pipeline folder, saved and read back without a network."""

import tempfile

import torch

import ctm_fast as cf
from ctm_fast.integrations.diffusers import CTMPipeline

# A random network for 8x8 digits; with a trained one: model = cf.load("ctm-digits.safetensors").
model = cf.Denoiser(cf.build("ctm-digits", model_channels=16))

with tempfile.TemporaryDirectory() as folder:
    CTMPipeline.from_denoiser(model).save_pretrained(folder)
    pipe = CTMPipeline.from_pretrained(folder)
pipe.set_progress_bar_config(disable=True)

noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
run = dict(num_inference_steps=2, latents=noise, class_labels=[0, 1, 2, 3])
images = pipe(**run, output_type="pt").images
own = cf.Sampler(model, steps=2, latents="unit")(noise=noise, labels=[0, 1, 2, 3])
difference = float((images - (own / 2 + 0.5)).abs().max())
pictures = pipe(batch_size=2, gamma=0.5, generator=torch.Generator().manual_seed(1)).images
print(f"{len(images)} images, largest difference to Sampler {difference:.1e}; {pictures[0].size}")
assert difference <= 1e-5
