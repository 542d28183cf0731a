"""Denoising score matching: value, weight, label dropout."""

import pytest
import torch
from torch import nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.densities import KarrasUniform, LogNormal
from ctm_fast.losses import DSM, Models, evaluate
from ctm_fast.losses.dsm import denoising_loss, noised
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.rng import stream
from tests.analytic import ConstantNet

from .tools import constant, drawn, label_batch


def test_noised_adds_sigma_times_noise() -> None:
    images, noise = torch.randn(2, 3, 1, 2, 2, generator=stream(0))
    sigma = torch.tensor([0.0, 1.0, 4.0])
    expected = torch.stack([i + s * n for i, s, n in zip(images, sigma, noise, strict=True)])
    assert torch.equal(noised(images, sigma, noise), expected)


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 80.0])
def test_bayes_loss_is_one_at_every_level(sigma: float) -> None:
    # F = 0 is the exact denoiser of N(0, sigma_data^2); the weighted error is then 1 on average.
    model = Denoiser(ConstantNet(0.0).double(), Preconditioning(EDM(0.7)))
    images = 0.7 * torch.randn(4000, 1, 4, 4, generator=stream(1), dtype=torch.float64)
    noise = torch.randn(4000, 1, 4, 4, generator=stream(2), dtype=torch.float64)
    levels = torch.full((4000,), sigma, dtype=torch.float64)
    loss = denoising_loss(model, images, levels, noise, None)
    assert loss.mean().item() == pytest.approx(1.0, abs=0.02)


def test_loss_is_the_weighted_squared_error() -> None:
    objective = DSM(density=LogNormal(-1.0, 0.5))
    model = constant(0.4, False)
    batch = drawn(objective, torch.randn(5, 1, 4, 4, generator=stream(3)))
    loss = objective.loss("dsm", batch, Models(model))
    for row in range(5):
        sigma, noise = batch.draw["sigma"][row], batch.draw["noise"][row]
        x = batch.images[row] + sigma * noise
        var = sigma**2 + 0.25
        denoised = 0.25 / var * x + sigma * 0.5 / var.sqrt() * 0.4
        weight = var / (sigma * 0.5) ** 2
        expected = weight * ((denoised - batch.images[row]) ** 2).mean()
        torch.testing.assert_close(loss[row], expected, rtol=1e-5, atol=1e-6)


class LabelNet(nn.Module):
    """Network that answers zeros and remembers what it was given."""

    img_channels, img_resolution, label_dim, has_destination = 1, 4, 10, False

    def forward(self, x, c_noise, c_noise_to=None, labels=None):
        self.scaled, self.seen = x, labels
        return torch.zeros_like(x)


def test_network_sees_noisy_images_of_unit_variance() -> None:
    net = LabelNet()
    model = Denoiser(net)
    images = 0.5 * torch.randn(3, 1, 40, 40, generator=stream(4))
    noise = torch.randn(3, 1, 40, 40, generator=stream(5))
    sigma = torch.tensor([0.01, 0.5, 80.0])
    denoising_loss(model, images, sigma, noise, None)
    c_in = model.precond.c_in(sigma).reshape(3, 1, 1, 1)
    torch.testing.assert_close(net.scaled, c_in * noised(images, sigma, noise))
    torch.testing.assert_close(net.scaled.std((1, 2, 3)), torch.ones(3), rtol=0.05, atol=0)


def test_label_dropout_replaces_labels_by_zeros() -> None:
    objective = DSM(label_dropout=0.3)
    net = LabelNet()
    batch = drawn(objective, torch.zeros(2000, 1, 4, 4), label_batch(2000))
    evaluate(objective, batch, Models(Denoiser(net)))
    kept = net.seen.sum(1)
    assert set(kept.tolist()) == {0.0, 1.0}
    assert kept.mean().item() == pytest.approx(0.7, abs=0.04)
    assert torch.equal(net.seen.argmax(1)[kept == 1], batch.labels[kept == 1])


def test_without_label_dropout_labels_pass_as_they_are() -> None:
    objective = DSM()
    net = LabelNet()
    batch = drawn(objective, torch.zeros(7, 1, 4, 4), label_batch(7))
    evaluate(objective, batch, Models(Denoiser(net)))
    assert net.seen is batch.labels


def test_density_is_used() -> None:
    draw = DSM(density=KarrasUniform(0.0, 0.01)).draw(50, (1, 2, 2), stream(0))
    assert draw["sigma"].min() > 70
    assert draw["sigma"].dtype == torch.float32


def test_bad_label_dropout_is_named() -> None:
    with pytest.raises(ValueError, match=r"label_dropout must be in \[0, 1\], got 1.5"):
        DSM(label_dropout=1.5)


def test_the_network_is_told_how_images_were_augmented() -> None:
    class Told(ConstantNet):
        def forward(self, x, *levels, augment_labels=None, **extra):  # type: ignore[no-untyped-def]
            self.seen = augment_labels
            return super().forward(x, *levels, **extra)

    objective, net = DSM(), Told(0.5, False)
    batch = drawn(objective, torch.randn(5, 1, 4, 4, generator=stream(3)))
    expected = objective.loss("dsm", batch, Models(Denoiser(net)))
    assert net.seen is None
    batch.draw["augment_labels"] = torch.randn(5, 9, generator=stream(4))
    assert torch.equal(objective.loss("dsm", batch, Models(Denoiser(net))), expected)
    assert net.seen is batch.draw["augment_labels"]
