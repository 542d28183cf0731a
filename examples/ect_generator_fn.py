"""locuslab/ect: two changed lines in ct_eval.py.

    from ctm_fast.integrations.ect import ECTGenerator               # new
    ...
    few_step_fn = ECTGenerator(mid_t=mid_t)                          # instead of functools.partial

A trajectory model of ours may take the network's place: ECTGenerator(mid_t=mid_t, gamma=0.5).

    python examples/ect_generator_fn.py
"""

import torch

from ctm_fast.integrations.ect import ECTGenerator


class ECMPrecond(torch.nn.Module):
    """Stands in for a network of ECT's pickles: a consistency function of data N(0, 0.5^2)."""

    sigma_min, sigma_max = 0.003, float("inf")

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def forward(self, x, sigma, class_labels=None):
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        return x.to(torch.float32) * ((0.25 + 0.003**2) / (0.25 + sigma**2)).sqrt()


net = ECMPrecond()
latents = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
for mid_t in ((), (0.821,)):
    generator_fn = ECTGenerator(mid_t=mid_t)
    torch.manual_seed(0)  # the noise between two calls is the host's: the global generator
    images = generator_fn(net, latents, None)
    print(f"{len(mid_t) + 1} calls: {tuple(images.shape)}, standard deviation {images.std():.2f}")
