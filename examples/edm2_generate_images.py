"""NVlabs/edm2: one changed argument of `generate_images`.

from ctm_fast.integrations.edm import EDMSampler                 # new
...
image_iter = generate_images(net, gnet=gnet, sampler_fn=EDMSampler(kind="denoiser"), ...)

python examples/edm2_generate_images.py
"""

import torch

from ctm_fast.integrations.edm import EDMSampler


class Precond(torch.nn.Module):
    """Stands in for an EDM2 network: net(x, sigma, labels) -> denoised latents."""

    def __init__(self, spread):
        super().__init__()
        self.spread = spread
        self.means = torch.nn.Parameter(torch.linspace(-1, 1, 10))

    def forward(self, x, sigma, labels=None):
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        mean = (labels @ self.means).reshape(-1, 1, 1, 1)
        return mean + (x - mean) * self.spread**2 / (self.spread**2 + sigma**2)


def generate_images(net, gnet, sampler_fn, seeds, **sampler_kwargs):
    """What EDM2's function does with a batch before it decodes."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(4, 8, 8, generator=g) for g in generators])
    labels = torch.eye(10)[[seed % 10 for seed in seeds]]
    return sampler_fn(net=net, noise=noise, labels=labels, gnet=gnet, **sampler_kwargs)


net, gnet = Precond(0.3), Precond(0.6)  # the second one guides
sampler_fn = EDMSampler(kind="denoiser")
for guidance in (1, 2):
    latents = generate_images(
        net, gnet, sampler_fn, seeds=range(16), num_steps=32, guidance=guidance
    )
    spread = latents.std((1, 2, 3)).mean()
    print(f"guidance {guidance}: {tuple(latents.shape)} {latents.dtype}, spread {spread:.2f}")
