"""The published scalings, solve and sampler agree with ours."""

from itertools import pairwise

import pytest
import torch

from benchmarks import networks
from benchmarks.official_model import OfficialModel
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers.heun import heun_solve_reference

SIGMAS = karras_sigmas(18)


def pair(name: str, undone: bool) -> tuple[OfficialModel, torch.nn.Module]:
    net = networks.network(name).double()
    adm = "adm" in name
    return OfficialModel(net, adm=adm, undone=undone), networks.denoiser(net)


@pytest.mark.parametrize("name", ["ctm-tiny-song", "ctm-tiny-adm"])
def test_jumps_and_denoising(name: str, tiny_presets: None) -> None:
    official, ours = pair(name, undone=False)
    x = networks.images(ours.net, 3).double() * 5
    t, s = torch.tensor([80.0, 3, 0.5]).double(), torch.tensor([2.0, 3, 0.002]).double()
    labels = networks.classes(ours.net, 3)
    with torch.no_grad():
        near = dict(rtol=1e-5, atol=1e-6)  # embeddings of noise levels are rounded on both sides
        torch.testing.assert_close(
            official.jump(x, t, s, labels), ours.jump(x, t, s, labels), **near
        )
        denoised = official.denoise(x, t, labels, t)
        torch.testing.assert_close(denoised, ours(x, t, labels), **near)


@pytest.mark.parametrize("undone", [False, True])
@pytest.mark.parametrize("name", ["tiny-song", "tiny-adm"])
def test_the_solve(name: str, undone: bool, tiny_presets: None) -> None:
    official, ours = pair(name, undone)
    start = torch.tensor([0, 7, 14])
    x = networks.images(ours.net, 3).double() * SIGMAS[start].reshape(-1, 1, 1, 1)
    labels = networks.classes(ours.net, 3)
    found = official.solve(x, SIGMAS, start, 3, labels)
    expected = heun_solve_reference(ours, x, SIGMAS, start, 3, labels)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


def test_the_sampler_jumps_from_level_to_level(tiny_presets: None) -> None:
    official, ours = pair("ctm-tiny-song", undone=False)
    levels = karras_sigmas(3)
    x = networks.images(ours.net, 2).double() * 160
    expected = x
    with torch.no_grad():
        for sigma, sigma_to in pairwise(levels):
            expected = ours.jump(expected, float(sigma), float(sigma_to))
    found = official.sample(x, levels)
    torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=1e-5, atol=1e-5)
