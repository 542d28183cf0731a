"""Networks of other code bases in miniature: their names, calls and scalings around our network.

None of their code is here. What they answer comes from a network of ours that the module does not
register, so only its published state dict and its attributes tell what it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.models import UNet
from ctm_fast.models.key_layouts import to_published

from ..models.tiny import randomised


class Part(nn.Module):
    """A layer: tensors under its published names."""


class GroupNorm(Part):
    """A layer that says its eps."""


class Network(nn.Module):
    """A network without scalings. Answers differently in training mode.

    Args:
        config: ours.
        layout: of the state dict.
        told: whether its layers say how many heads and which eps they have.
        variance: whether it answers with twice as many channels.
        dtype: of its weights.
    """

    def __init__(self, config, layout, told=True, variance=False, dtype=torch.float32) -> None:
        super().__init__()
        nets = [randomised(config, seed).to(dtype) for seed in range(2 if variance else 1)]
        if variance:  # all but the last layer are the same
            last = {n: v for n, v in nets[1].state_dict().items() if is_output(n)}
            nets[1].load_state_dict({**nets[0].state_dict(), **last})
        self.__dict__["nets"], self.heads = nets, None
        states = [to_published(net.state_dict(), config, layout) for net in nets]
        for name, value in states[0].items():
            rows = [state[name] for state in states]
            different = variance and not torch.equal(*rows)
            self.hang(name, torch.cat(rows) if different else value, told, nets[0])

    def hang(self, name: str, value: Tensor, told: bool, net: UNet) -> None:
        *path, leaf = name.split(".")
        place: nn.Module = self
        for part in path:
            if part not in place._modules:
                place.add_module(part, GroupNorm() if "norm" in part and told else Part())
            if part == "qkv" and told and value.ndim > 1:
                width = getattr(net.config, "channels_per_head", 0) or value.shape[1]
                place.num_heads = value.shape[1] // width
            place = place._modules[part]
        if isinstance(place, GroupNorm):
            place.eps = getattr(net.config, "eps", 1e-6)
        if leaf in ("resample_filter", "freqs"):
            place.register_buffer(leaf, value)
        else:
            place.register_parameter(leaf, nn.Parameter(value.detach().clone()))

    def answer(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        outs = [net(x.to(net.input_conv.weight.dtype), *args, **kwargs) for net in self.nets]
        noise = 10.0 if self.training else 0.0
        return (torch.cat(outs, dim=1) + noise).to(x.dtype)


def is_output(name: str) -> bool:
    return name.startswith("outputs.") and ".conv." in name


class SongUNet(Network):
    """NVlabs/edm."""

    def __init__(self, config, **options) -> None:
        super().__init__(config, "edm", **options)
        self.img_resolution = config.img_resolution

    def forward(self, x, noise_labels, class_labels, augment_labels=None):
        return self.answer(x, noise_labels, None, class_labels, augment_labels)


class DhariwalUNet(SongUNet):
    """NVlabs/edm."""


class SongTrajectory(SongUNet):
    """ctm-cifar10."""

    def forward(self, x, noise_labels, noise_labels_s, class_labels):
        return self.answer(x, noise_labels, noise_labels_s, class_labels)


class UNetModel(Network):
    """openai: classes are integers and must be given."""

    def __init__(self, config, order="new", **options) -> None:
        super().__init__(config, "adm" if order == "new" else "adm-legacy", **options)
        self.image_size, self.in_channels = config.img_resolution, config.img_channels
        self.num_classes, self.use_fp16 = config.label_dim or None, False

    def forward(self, x, timesteps, y=None):
        assert (y is not None) == (self.num_classes is not None)
        return self.answer(x, timesteps, None, y)


class TrajectoryModel(UNetModel):
    """sony/ctm."""

    def forward(self, x, timesteps, y=None, s=None, teacher=False):
        assert (y is not None) == (self.num_classes is not None)
        return self.answer(x, timesteps, s, y)


class Precond(nn.Module):
    """What EDM's wrappers have in common; a subclass has `scalings`."""

    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self, model: nn.Module, **attributes: Any) -> None:
        super().__init__()
        config = model.nets[0].config
        self.img_resolution, self.img_channels = config.img_resolution, config.img_channels
        self.label_dim, self.use_fp16, self.sigma_data = config.label_dim, False, 0.5
        self.sigma_min, self.sigma_max = self.sigma_min, self.sigma_max
        self.__dict__.update(attributes)
        self.model = model

    def forward(self, x, sigma, class_labels=None, force_fp32=False, **model_kwargs):
        x, sigma = x.to(torch.float32), sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        rows = None
        if self.label_dim:
            rows = torch.zeros(1, self.label_dim) if class_labels is None else class_labels.float()
        skip, out, scale, noise = self.scalings(sigma)
        F = self.model(scale * x, noise.flatten(), class_labels=rows, **model_kwargs)
        return skip * x + out * F[:, : self.img_channels].float()

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)


class EDMPrecond(Precond):
    def scalings(self, sigma):
        total = sigma**2 + self.sigma_data**2
        out = sigma * self.sigma_data / total.sqrt()
        return self.sigma_data**2 / total, out, 1 / total.sqrt(), sigma.log() / 4


class ECMPrecond(Precond):
    sigma_min = 0.003

    def scalings(self, sigma):
        total, sd = sigma**2 + self.sigma_data**2, self.sigma_data
        shifted = sigma - (0.0 if self.training else self.sigma_min)
        skip = sd**2 / (shifted**2 + sd**2)
        return skip, shifted * sd / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4


class VPPrecond(Precond):
    beta_d, beta_min, M = 19.9, 0.1, 1000

    def scalings(self, sigma):
        root = (self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt()
        time = (root - self.beta_min) / self.beta_d
        return 1, -sigma, 1 / (1 + sigma**2).sqrt(), (self.M - 1) * time


class VEPrecond(Precond):
    sigma_min, sigma_max = 0.02, 100

    def scalings(self, sigma):
        return 1, sigma, 1, (0.5 * sigma).log()


class iDDPMPrecond(Precond):
    """With the levels of the cosine schedule, from the noisiest to none."""

    M, C_1, C_2 = 1000, 0.001, 0.008

    def __init__(self, model, **attributes):
        super().__init__(model, **attributes)
        levels = [0.0]
        for j in range(self.M, 0, -1):
            ratio = max(self.abar(j - 1) / self.abar(j), self.C_1)
            levels.append(math.sqrt((levels[-1] ** 2 + 1) / ratio - 1))
        self.register_buffer("u", torch.tensor(levels[::-1]))

    def abar(self, j):
        return math.sin(0.5 * math.pi * j / self.M / (self.C_2 + 1)) ** 2

    def round_sigma(self, sigma, return_index=False):
        sigma = torch.as_tensor(sigma)
        index = (sigma.to(self.u).reshape(-1, 1) - self.u).abs().argmin(1)
        return (index if return_index else self.u[index].to(sigma.dtype)).reshape(sigma.shape)

    def scalings(self, sigma):
        index = self.round_sigma(sigma, return_index=True)
        return 1, -sigma, 1 / (1 + sigma**2).sqrt(), self.M - 1 - index.float()


class EDMPrecond_CTM(nn.Module):
    """ctm-cifar10: told 250 ln sigma."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.label_dim, self.teacher, self.model = model.nets[0].config.label_dim, False, model

    def forward(self, rescaled_x, rescaled_t, s=None, teacher=False, **model_kwargs):
        rows = None
        if self.label_dim:
            rows = torch.zeros(1, self.label_dim)
            rows = torch.eye(self.label_dim)[model_kwargs["y"]] if model_kwargs else rows
        t, s = ((v / 250).exp().log() / 4 for v in (rescaled_t, s))
        return self.model(rescaled_x.float(), t.flatten(), s.flatten(), class_labels=rows)
