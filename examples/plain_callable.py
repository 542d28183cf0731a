"""Any callable: say what it is, and sample it.

python examples/plain_callable.py
"""

import torch

import ctm_fast


# Your network: here the exact denoiser of data N(0, 0.5^2), with sigma (batch,).
def net(x, sigma):
    sigma = sigma.reshape(-1, 1, 1, 1)
    return x * 0.25 / (0.25 + sigma**2)


# kind: denoiser, consistency, trajectory, velocity, average_velocity
# time: edm (sigma itself), adm (250 ln sigma), diffusers, flow, trigflow, ...
sampler = ctm_fast.Sampler(net, kind="denoiser", time="edm", shape=(1, 16, 16), steps=18)
images = sampler(64, seed=0)

print(f"images {tuple(images.shape)}, standard deviation {images.std():.2f} (the data's is 0.50)")
assert torch.equal(images[:2], sampler(64, seed=0)[:2])
