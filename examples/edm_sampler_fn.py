"""NVlabs/edm: two changed lines in generate.py.

    from ctm_fast.integrations.edm import EDMSampler                 # new
    ...
    sampler_fn = EDMSampler(kind="denoiser")                         # instead of edm_sampler
    images = sampler_fn(net, latents, class_labels, randn_like=rnd.randn_like, **sampler_kwargs)

For a consistency or trajectory model say kind="consistency" or kind="trajectory" and start
generate.py with --steps=1 (or 2, ...).

    python examples/edm_sampler_fn.py
"""

import torch

from ctm_fast.integrations.edm import EDMSampler


class EDMPrecond(torch.nn.Module):
    """Stands in for a network of EDM's pickles: net(x, sigma, class_labels) -> denoised."""

    img_channels, img_resolution, label_dim, sigma_min, sigma_max = 3, 16, 10, 0, float("inf")

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.linspace(-1, 1, 10))

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def forward(self, x, sigma, class_labels=None):
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        mean = (class_labels @ self.mean).reshape(-1, 1, 1, 1)
        return mean + (x.to(torch.float32) - mean) * 0.01 / (0.01 + sigma**2)


net = EDMPrecond().eval()
seeds = [0, 1, 2, 3]
generators = [torch.Generator().manual_seed(seed) for seed in seeds]
latents = torch.stack([torch.randn(3, 16, 16, generator=g) for g in generators])
class_labels = torch.eye(net.label_dim)[[0, 3, 6, 9]]

sampler_fn = EDMSampler(kind="denoiser")
images = sampler_fn(net, latents, class_labels, num_steps=18, rho=7)

means = ", ".join(f"{mean:.2f}" for mean in images.mean((1, 2, 3)))
print(f"images {tuple(images.shape)} {images.dtype}, means {means}")
