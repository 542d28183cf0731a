"""Tiny hosts written from the conventions of other codebases; none of their code is here.

Every network is an elementwise formula with one weight and answers differently in training mode,
so a door that forgets eval mode is seen.
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..fixtures import GOLDEN


def pattern(*shape: int, step: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of about unit variance that look like noise and need no generator."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (1.4 * torch.sin(index * 12.9898 + 78.233 * (step + 1))).reshape(shape).to(dtype)


class PatternNoise:
    """A host's generator object that gives the patterns 1, 2, 3, ... in turn."""

    def __init__(self) -> None:
        self.drawn = 0

    def randn(self, *size: int, device: object = None, dtype=torch.float32) -> Tensor:
        self.drawn += 1
        return pattern(*size, step=self.drawn, dtype=dtype)

    def randn_like(self, x: Tensor) -> Tensor:
        return self.randn(*x.shape, dtype=x.dtype)


class StackedGenerators:
    """One generator per seed, as EDM's generate.py draws."""

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def randn(self, size, dtype=torch.float32) -> Tensor:
        rows = [torch.randn(size[1:], generator=g, dtype=dtype) for g in self.generators]
        return torch.stack(rows)

    def randn_like(self, x: Tensor) -> Tensor:
        return self.randn(x.shape, x.dtype)


def golden(name: str) -> Tensor:
    """What the codebase itself answers for a tiny network."""
    return load_file(GOLDEN / "hosts.safetensors")[name]


def raw(x: Tensor, time: Tensor, shift: Tensor | float, weight: Tensor) -> Tensor:
    """Elementwise network: tanh(weight x + sin(time) + shift), time and shift one per image."""
    wide = (-1, *[1] * (x.ndim - 1))
    moved = torch.sin(time).reshape(wide)
    if isinstance(shift, Tensor):
        moved = moved + shift.reshape(wide)
    return torch.tanh(weight * x + moved.to(x.dtype))


class Tiny(nn.Module):
    """One weight, and another answer in training mode."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=dtype))
        self.inner = nn.Identity()

    def answer(self, x: Tensor, time: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        out = raw(x.to(self.weight.dtype), time, shift, self.weight)
        return out + 1 if self.training or self.inner.training else out


class TinyEDM(Tiny):
    """NVlabs/edm: net(x, sigma, class_labels) with one-hot float labels, and its attributes."""

    sigma_min, sigma_max, sigma_data = 0.0, float("inf"), 0.5

    def __init__(self, channels=1, size=4, classes=3, dtype=torch.float64) -> None:
        super().__init__(dtype)
        self.img_channels, self.img_resolution, self.label_dim = channels, size, classes

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def forward(self, x, sigma, class_labels=None):
        own = self.weight.dtype
        x, sigma = x.to(own), sigma.to(own).reshape(-1, 1, 1, 1)
        shift = 0.0
        if self.label_dim:
            labels = torch.zeros(1, self.label_dim) if class_labels is None else class_labels
            assert labels.is_floating_point() and labels.shape[1] == self.label_dim
            shift = (labels.to(own) * torch.arange(self.label_dim)).sum(1) / 3
        total = sigma**2 + self.sigma_data**2
        skip, out = self.scalings(sigma, total)
        answered = self.answer(x / total.sqrt(), sigma.log().flatten() / 4, shift)
        return skip * x + out * answered

    def scalings(self, sigma, total):
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()


class EDMPrecond(TinyEDM):
    """A network whose class name says that it denoises."""


class ECMPrecond(TinyEDM):
    """locuslab/ect: a consistency function with its boundary at sigma_min, in eval mode only."""

    sigma_min = 0.003

    def scalings(self, sigma, total):
        if self.training:
            return super().scalings(sigma, total)
        shifted = sigma - self.sigma_min
        skip = self.sigma_data**2 / (shifted**2 + self.sigma_data**2)
        return skip, shifted * self.sigma_data / total.sqrt()


def edm_generate(sampler_fn, net, seeds, class_idx=None, **options):
    """What EDM's generate.py does with one batch; the changed line is its `sampler_fn`."""
    rnd = StackedGenerators(seeds)
    shape = [len(seeds), net.img_channels, net.img_resolution, net.img_resolution]
    latents, class_labels = rnd.randn(shape), None
    if net.label_dim:
        class_labels = torch.eye(net.label_dim)[[seed % net.label_dim for seed in seeds]]
    if class_idx is not None:
        class_labels[:, :] = 0
        class_labels[:, class_idx] = 1
    return sampler_fn(net, latents, class_labels, randn_like=rnd.randn_like, **options)


def edm2_generate_images(net, gnet=None, seeds=(0,), sampler_fn=None, **sampler_kwargs):
    """What EDM2's `generate_images` does with one batch, without the encoder."""
    rnd = StackedGenerators(list(seeds))
    noise = rnd.randn([len(seeds), net.img_channels, net.img_resolution, net.img_resolution])
    labels = torch.eye(net.label_dim)[[seed % net.label_dim for seed in seeds]]
    gnet = net if gnet is None else gnet
    return sampler_fn(
        net=net,
        noise=noise,
        labels=labels,
        gnet=gnet,
        randn_like=rnd.randn_like,
        **sampler_kwargs,
    )


class TinyKDiffusion(Tiny):
    """crowsonkb/k-diffusion: model(x, sigma, **extra_args) in the dtype of its weights."""

    def forward(self, x, sigma, y=None):
        assert x.dtype == self.weight.dtype == sigma.dtype and sigma.shape == (len(x),)
        wide = sigma.reshape(-1, *[1] * (x.ndim - 1))
        total = wide**2 + 0.25
        shift = 0.0 if y is None else y / 3
        return 0.25 / total * x + wide * 0.5 / total.sqrt() * self.answer(
            x / total.sqrt(), sigma.log() / 4, shift
        )


class TinyADM(Tiny):
    """openai: model(c_in x, 250 ln sigma, y=). sony: s=250 ln s and teacher= besides."""

    two_times = False

    def forward(self, x, timesteps, y=None, s=None, teacher=False):
        time = timesteps / 100
        if self.two_times and not teacher:
            time = time + torch.cos(s / 300)
        return self.answer(x, time.to(x.dtype), 0.0 if y is None else y / 3).to(x.dtype)


class TinyOpenAIDiffusion:
    """Preconditioning of openai/consistency_models: denoise(model, x, sigmas, **kwargs)."""

    sigma_data, sigma_min, sigma_max, rho = 0.5, 0.002, 80.0, 7.0

    def __init__(self, distillation: bool) -> None:
        self.distillation = distillation

    def denoise(self, model, x_t, sigmas, **model_kwargs):
        sigma, sd = sigmas.reshape(-1, 1, 1, 1), self.sigma_data
        low = self.sigma_min if self.distillation else 0.0
        total = sigma**2 + sd**2
        output = model(x_t / total.sqrt(), 250 * torch.log(sigmas + 1e-44), **model_kwargs)
        skip, out = sd**2 / ((sigma - low) ** 2 + sd**2), (sigma - low) * sd / total.sqrt()
        return output, out * output + skip * x_t


class TinySonyDiffusion:
    """Preconditioning of sony/ctm: get_denoised_and_G(model, x_t, t, s, ctm, teacher, **kwargs)."""

    sigma_data, sigma_min = 0.5, 0.002

    def get_denoised_and_G(self, model, x_t, t, s=None, ctm=False, teacher=False, **kwargs):
        times = [None if v is None else 250 * torch.log(v + 1e-44) for v in (t, s)]
        sigma, sd = t.reshape(-1, 1, 1, 1), self.sigma_data
        total = sigma**2 + sd**2
        output = model(x_t / total.sqrt(), times[0], s=times[1], teacher=teacher, **kwargs)
        low = 0.0 if ctm or teacher else self.sigma_min
        skip, out = sd**2 / ((sigma - low) ** 2 + sd**2), (sigma - low) * sd / total.sqrt()
        denoised = out * output + skip * x_t
        if not ctm:
            return denoised, denoised
        ratio = (s / t).reshape(-1, 1, 1, 1)
        return denoised, ratio * x_t + (1 - ratio) * denoised


class TinyVelocity(Tiny):
    """flow_matching: velocity(x=, t=, **extras), t a () tensor; t = 1 is data."""

    def forward(self, x, t, label=None, r=None):
        assert x.dtype == self.weight.dtype and t.ndim == 0
        shift = 0.0 if label is None else label / 3
        time = t if r is None else (t + r) / 2
        return self.answer(x, time.expand(len(x)), shift) - x * time.to(x.dtype)


class TinyFastGen(Tiny):
    """FastGen: forward(x_t, t, condition, r=None, fwd_pred_type=) -> predicted images."""

    def forward(self, x_t, t, condition=None, r=None, fwd_pred_type="x0"):
        assert fwd_pred_type == "x0" and t.shape == (len(x_t),)
        time = t if r is None else t + 0.5 * r
        shift = 0.0 if condition is None else condition / 3
        return self.answer(x_t / (1 + t.reshape(-1, 1, 1, 1).to(x_t.dtype)), time, shift)
