"""crowsonkb/k-diffusion: two changed lines.

    from ctm_fast.integrations import k_diffusion as fast            # new
    ...
    x = fast.sample_heun(model, x, sigmas, extra_args=extra_args)    # K.sampling.sample_heun

sample_euler, sample_heun and sample_euler_ancestral are k-diffusion's own; sample_onestep and
sample_cm_multistep take a consistency model, sample_exact and sample_gamma a trajectory model.

    python examples/k_diffusion_sample.py
"""

import torch

import ctm_fast
from ctm_fast.integrations import k_diffusion as fast


class Model(torch.nn.Module):
    """Stands in for K.layers.Denoiser: model(x, sigma, **extra_args) -> denoised."""

    def forward(self, x, sigma, mean=0.0):
        sigma = sigma.reshape(-1, 1, 1, 1)
        return mean + (x - mean) * 0.01 / (0.01 + sigma**2)


sigmas = torch.cat([ctm_fast.karras_sigmas(10, 0.01, 80.0).float(), torch.zeros(1)])
x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * sigmas[0]
steps = []

images = fast.sample_heun(
    Model(), x, sigmas, extra_args={"mean": 0.25}, callback=steps.append, disable=True
)
print(f"images {tuple(images.shape)}, mean {images.mean():.2f} after {len(steps)} steps")
