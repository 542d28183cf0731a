"""Models of data whose likelihood is known."""

import torch
from torch import Tensor

from ctm_fast.denoiser import Denoiser
from ctm_fast.wrappers import wrap
from tests.analytic import Gaussian, GaussianNet, Mixture

LN2 = 0.6931471805599453


def drawn(*shape: int, seed: int = 0, scale: float = 0.5) -> Tensor:
    """Normal numbers, float64."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, dtype=torch.float64, generator=generator)


def gaussian(
    std: float = 0.5,
    channels: int = 1,
    size: int = 4,
    dtype: torch.dtype = torch.float64,
    destination: bool = True,
) -> Denoiser:
    """Exact denoiser of N(0, std^2 I), in the form of a network of ours."""
    net = GaussianNet(Gaussian(0.0, std), channels, size, destination)
    return net.to(dtype).denoiser()


def mixture(dims: int) -> Mixture:
    """Two components, in one or two dimensions."""
    means = torch.tensor([[-0.6, 0.2], [0.5, -0.3]], dtype=torch.float64)[:, :dims]
    weights, stds = torch.tensor([[0.3, 0.7], [0.15, 0.3]], dtype=torch.float64)
    return Mixture(weights, means, stds)


def wrapped(data: Mixture) -> Denoiser:
    """The mixture's denoiser as a foreign callable."""
    return wrap(lambda x, t: data(x, t), kind="denoiser", shape=(data.means.shape[1],))
