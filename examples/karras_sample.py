"""openai/consistency_models and sony/ctm: one changed line in image_sample.py.

from ctm_fast.integrations.karras import karras_sample           # instead of cm's

python examples/karras_sample.py
"""

import torch

from ctm_fast.integrations.karras import karras_sample


class UNetModel(torch.nn.Module):
    """Stands in for the host's network: model(c_in x, 250 ln sigma, y=...)."""

    def __init__(self):
        super().__init__()
        self.classes = torch.nn.Embedding.from_pretrained(torch.linspace(-2, 2, 10)[:, None])

    def forward(self, x, timesteps, y=None):
        return self.classes(y)[:, :, None, None].expand_as(x)


class KarrasDenoiser:
    """Stands in for the host's diffusion object of a consistency model."""

    sigma_data, sigma_min, rho, distillation = 0.5, 0.002, 7.0, True

    def denoise(self, model, x_t, sigmas, **model_kwargs):
        sigma, sd = sigmas.reshape(-1, 1, 1, 1), self.sigma_data
        total = (sigma**2 + sd**2).sqrt()
        output = model(x_t / total, 250 * torch.log(sigmas), **model_kwargs)
        skip = sd**2 / ((sigma - self.sigma_min) ** 2 + sd**2)
        return output, (sigma - self.sigma_min) * sd / total * output + skip * x_t


model, diffusion = UNetModel(), KarrasDenoiser()
model_kwargs = {"y": torch.tensor([0, 3, 6, 9])}
for sampler, ts in (("onestep", None), ("multistep", (0, 22, 39))):
    images = karras_sample(
        diffusion,
        model,
        (4, 3, 16, 16),
        steps=40,
        model_kwargs=model_kwargs,
        sampler=sampler,
        generator=[11, 12, 13, 14],  # one seed per image; None is the global generator
        ts=ts,
    )
    means = ", ".join(f"{mean:.2f}" for mean in images.mean((1, 2, 3)))
    print(f"{sampler}: {tuple(images.shape)}, means {means}")
