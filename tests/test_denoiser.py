"""`Denoiser`: a network with its preconditioning."""

import pytest
import torch
from torch import nn

from ctm_fast.denoiser import Denoiser, per_sample
from ctm_fast.noise_embeddings import FlowTime
from ctm_fast.precond import CM, EDM, LinearFlow, Preconditioning
from ctm_fast.sigmas import karras_sigmas
from tests.analytic import ConstantNet, Gaussian, GaussianNet


def images(batch, generator_seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(generator_seed)
    return torch.randn(batch, 1, 4, 4, dtype=dtype, generator=generator)


class Recorder(nn.Module):
    """Remembers what it is called with; returns half its input in its weight's dtype."""

    img_channels, img_resolution, label_dim = 2, 8, 5

    def __init__(self, destination=False, dtype=torch.float32):
        super().__init__()
        self.has_destination = destination
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=dtype))
        self.last_layer = nn.Conv2d(1, 1, 1)
        self.seen = []

    def forward(self, x, c_noise, c_noise_to=None, labels=None, extra=None):
        self.seen.append((x, c_noise, c_noise_to, labels, extra))
        return self.weight * x


def test_zero_network_is_the_gaussian_denoiser():
    sigmas = karras_sigmas(18)
    x = images(len(sigmas)) * 10
    model = Denoiser(ConstantNet().double())
    assert torch.allclose(model(x, sigmas), Gaussian()(x, sigmas), rtol=1e-13, atol=0)
    assert torch.allclose(model.score(x, sigmas), Gaussian().score(x, sigmas), rtol=1e-9)


def test_zero_network_jumps_by_one_euler_step():
    model = Denoiser(ConstantNet(destination=True).double())
    t, s = karras_sigmas(18)[:-1], karras_sigmas(18)[1:]
    x = images(len(t)) * 10
    slope = (x - Gaussian()(x, t)) / t.reshape(-1, 1, 1, 1)
    euler = x + (s - t).reshape(-1, 1, 1, 1) * slope
    assert torch.allclose(model.jump(x, t, s), euler, rtol=1e-12)


def test_jump_to_the_own_level_returns_x_bit_for_bit():
    model = Denoiser(ConstantNet(3.0, destination=True))
    x = images(40, dtype=torch.float32) * 50
    sigmas = karras_sigmas(40).float()
    assert torch.equal(model.jump(x, sigmas, sigmas), x)


def test_fused_jump_is_the_plain_formula():
    t, s, sd = 3.0, 0.4, 0.5
    net = Recorder(destination=True, dtype=torch.float64)
    x = images(3)
    F = 0.5 * x / (t**2 + sd**2) ** 0.5
    g = sd**2 / (t**2 + sd**2) * x + t * sd / (t**2 + sd**2) ** 0.5 * F
    assert (Denoiser(net).jump(x, t, s) - (s / t * x + (1 - s / t) * g)).abs().max() < 1e-12


def test_network_sees_scaled_input_and_log_levels():
    net = Recorder(destination=True)
    model = Denoiser(net, Preconditioning(EDM(0.75)))
    x, t, s = images(2, dtype=torch.float32), torch.tensor([2.0, 8.0]), torch.tensor([1.0, 2.0])
    labels = torch.tensor([1, 4])
    model.jump(x, t, s, labels)
    scaled, c_noise, c_noise_to, seen_labels, _ = net.seen[-1]
    assert torch.allclose(scaled, x / (t**2 + 0.75**2).sqrt().reshape(2, 1, 1, 1))
    assert torch.allclose(c_noise, t.log() / 4) and torch.allclose(c_noise_to, s.log() / 4)
    assert seen_labels is labels
    model(x, t, extra="kept")
    assert torch.equal(net.seen[-1][2], net.seen[-1][1]) and net.seen[-1][4] == "kept"


def test_a_flow_map_is_told_time_and_gap():
    net = Recorder(destination=True, dtype=torch.float64)
    model = Denoiser(net, Preconditioning(LinearFlow(), noise_embedding=FlowTime()))
    x, t, s = images(2), torch.tensor([3.0, 1.0]).double(), torch.tensor([1.0, 0.25]).double()
    jumped, _ = model.jump(x, t, s), model(x, t)
    (scaled, told, gap, *_), (_, _, here, *_) = net.seen
    column = t.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(scaled, x / (1 + column))
    torch.testing.assert_close(told, torch.tensor([0.75, 0.5]).double())
    torch.testing.assert_close(gap, torch.tensor([0.25, 0.3]).double())
    assert torch.equal(here, torch.zeros(2).double())
    z_s = scaled - gap.reshape(-1, 1, 1, 1) * scaled / 2
    torch.testing.assert_close(jumped, (1 + s.reshape(-1, 1, 1, 1)) * z_s)
    assert model.even_sigmas(1).tolist() == [80.0, 0.002]
    assert Denoiser(net).even_sigmas(1) is None


def test_an_input_that_is_already_scaled_is_taken_as_it_is():
    net = Recorder()
    model, x, scaled = Denoiser(net), images(2), images(2, 1).float()
    denoised = model(x, 2.0, scaled=scaled)
    assert net.seen[-1][0] is scaled
    c_skip, c_out = 0.25 / 4.25, 2.0 * 0.5 / 4.25**0.5
    assert torch.allclose(denoised, c_skip * x + c_out * 0.5 * scaled.double())


def test_a_teacher_is_called_without_destination():
    net = Recorder()
    model = Denoiser(net)
    model(images(2), 1.0)
    assert model.kind == "denoiser" and net.seen[-1][2] is None


def test_an_encoder_is_told_that_it_stays_where_it_is():
    class Encoder(nn.Module):
        has_destination = True

        def features(self, x, c_noise, labels=None, c_noise_to=None):
            return [x, c_noise, c_noise_to]

    net, c_noise = Encoder(), torch.tensor([0.5, -1.0])
    x = torch.randn(2, 1, 2, 2)
    assert Denoiser(net, kind="denoiser").features(x, c_noise)[2] is None
    assert torch.equal(Denoiser(net).features(x, c_noise)[2], c_noise)
    flow = Preconditioning(LinearFlow(0.5), noise_embedding=FlowTime())
    assert torch.equal(Denoiser(net, flow).features(x, c_noise)[2], torch.zeros(2))


@pytest.mark.parametrize("weights", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("state", [torch.float32, torch.float64])
def test_state_keeps_its_dtype_and_the_network_its_own(state, weights):
    net = Recorder(destination=True, dtype=weights)
    model = Denoiser(net)
    x = images(2, dtype=state)
    assert model(x, 2.0).dtype == state and model.jump(x, 2.0, 1.0).dtype == state
    assert model.score(x, 2.0).dtype == state
    assert net.seen[-1][0].dtype == weights


def test_compute_dtype_is_autocast():
    linear = nn.Conv2d(1, 1, 1)

    class Net(Recorder):
        def forward(self, x, *args, **kwargs):
            self.seen.append(linear(x))
            return self.seen[-1]

    net = Net()
    model = Denoiser(net, dtype=torch.bfloat16)
    denoised = model(images(2, dtype=torch.float32), 1.0)
    assert net.seen[-1].dtype == torch.bfloat16 and denoised.dtype == torch.float32


def test_sigma_is_a_number_or_one_level_per_image():
    x = images(3)
    assert per_sample(2.0, x).tolist() == [2.0] * 3
    assert per_sample(torch.tensor(2.0), x).tolist() == [2.0] * 3
    assert per_sample(torch.tensor([1.0, 2.0, 3.0]), x).dtype == torch.float64
    with pytest.raises(ValueError, match=r"sigma has shape \(2,\); need \(\) or \(3,\)"):
        per_sample(torch.ones(2), x)
    with pytest.raises(ValueError, match=r"sigma has shape \(3, 1, 1, 1\)"):
        per_sample(torch.ones(3, 1, 1, 1), x)


def test_consistency_model_is_the_identity_at_sigma_min_and_jumps_by_denoising():
    model = Denoiser(ConstantNet(2.0), Preconditioning(CM()), kind="consistency")
    x = images(3, dtype=torch.float32)
    assert torch.equal(model(x, 0.002), x)
    assert torch.equal(model.jump(x, 5.0, 0.002), model(x, 5.0))


def test_consistency_model_refuses_other_destinations():
    model = Denoiser(ConstantNet(2.0), Preconditioning(CM()), kind="consistency")
    with pytest.raises(ValueError, match="sigma_min"):
        model.jump(images(3), 5.0, 1.0)


def test_a_plain_denoiser_cannot_jump():
    with pytest.raises(ValueError, match="cannot jump; use an ODE sampler"):
        Denoiser(ConstantNet()).jump(images(1), 2.0, 1.0)


def test_kinds():
    assert Denoiser(ConstantNet(destination=True)).kind == "trajectory"
    assert Denoiser(ConstantNet(destination=True), kind="consistency").kind == "consistency"
    with pytest.raises(ValueError, match="destination embedding"):
        Denoiser(ConstantNet(), kind="trajectory")
    with pytest.raises(ValueError, match=r"unknown kind 'ctm'; choose from"):
        Denoiser(ConstantNet(), kind="ctm")
    with pytest.raises(ValueError, match=r"sigma_max=0\.001"):
        Denoiser(ConstantNet(), sigma_max=0.001)


def test_what_a_denoiser_says_of_itself():
    net = Recorder()
    model = Denoiser(net, Preconditioning(EDM(0.7)), sigma_min=0.01, sigma_max=50)
    assert (model.img_channels, model.img_resolution, model.label_dim) == (2, 8, 5)
    assert (model.sigma_data, model.sigma_min, model.sigma_max) == (0.7, 0.01, 50.0)
    assert model.last_layer is net.last_layer
    assert "kind=denoiser" in repr(model) and "sigma_data=0.7" in repr(model)


def test_gradients_reach_weights_and_images():
    net = GaussianNet()
    x = images(2, dtype=torch.float32).requires_grad_()
    net.denoiser().jump(x, 2.0, 0.5).sum().backward()
    assert x.grad is not None and net.last_layer.weight.grad is not None
    exact = ((0.25 + 0.5**2) / (0.25 + 2.0**2)) ** 0.5
    assert torch.allclose(x.grad, torch.full_like(x, exact), rtol=1e-5)
