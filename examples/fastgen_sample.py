"""NVlabs/FastGen: two changed lines where `network.sample` is called.

    from ctm_fast.integrations.fastgen import FastGenSampler         # new
    ...
    images = FastGenSampler(network, kind="denoiser").sample(noise, condition, num_steps=18)

kind="trajectory" is a network that takes r (MeanFlow too), kind="consistency" one that jumps to
the end; time="flow" is for networks on (1 - t) x0 + t eps.

    python examples/fastgen_sample.py
"""

import torch

from ctm_fast.integrations.fastgen import FastGenSampler


class Network(torch.nn.Module):
    """Stands in for a FastGen network; the images of class c are c/4 plus noise of 0.1."""

    def forward(self, x_t, t, condition=None, r=None, fwd_pred_type="x0"):
        mean, t = condition.reshape(-1, 1, 1, 1) / 4, t.reshape(-1, 1, 1, 1)
        if r is None:
            return mean + (x_t - mean) * 0.01 / (0.01 + t**2)
        r = r.reshape(-1, 1, 1, 1)
        landed = mean + (x_t - mean) * ((0.01 + r**2) / (0.01 + t**2)).sqrt()
        return (landed - r / t * x_t) / (1 - r / t)


noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
condition = torch.tensor([-2.0, 0.0, 1.0, 3.0])
for kind, steps in (("denoiser", 18), ("trajectory", 1)):
    images = FastGenSampler(Network(), kind=kind).sample(noise, condition, num_steps=steps)
    means = ", ".join(f"{mean:.2f}" for mean in images.mean((1, 2, 3)))
    print(f"{kind}: {tuple(images.shape)}, means {means}")
