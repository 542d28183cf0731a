"""Doors of EDM and EDM2 against golden outputs, reference loops and their contract."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from ctm_fast import models
from ctm_fast.denoiser import Denoiser
from ctm_fast.integrations.edm import EDMSampler, RoundedChurn, clamped, rounded
from ctm_fast.models.key_layouts import from_published
from ctm_fast.sampler import sampling_sigmas
from ctm_fast.wrappers import wrap

from ..fixtures import assert_within, fixture_dir, load_fixture, load_weights, tolerance
from ..sampler.worlds import small_model
from .tiny_hosts import (
    EDMPrecond,
    PatternNoise,
    StackedGenerators,
    TinyEDM,
    edm2_generate_images,
    edm_generate,
    golden,
    pattern,
)

LABELS = torch.eye(3)[[0, 2]]
CHURN = dict(S_churn=20, S_min=0.05, S_max=50, S_noise=1.003)


def close(actual, expected, tol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tol, atol=tol)


def test_heun_is_edms():
    images = EDMSampler(kind="denoiser")(TinyEDM(), pattern(2, 1, 4, 4), LABELS, num_steps=6)
    assert images.dtype == torch.float64
    close(images, golden("edm_heun"))


def test_churn_is_edms_with_its_noise_in_its_order():
    noise = PatternNoise()
    images = EDMSampler(kind="denoiser")(
        TinyEDM(),
        pattern(2, 1, 4, 4),
        LABELS,
        randn_like=noise.randn_like,
        num_steps=8,
        **CHURN,
    )
    close(images, golden("edm_churn"))


@pytest.mark.skipif(fixture_dir("edm_heun_sampler") is None, reason="needs the whole fixture")
def test_the_whole_edm_fixture():
    io, meta = load_fixture("edm_heun_sampler")
    config = models.SongConfig(
        img_resolution=16,
        label_dim=10,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(8,),
    )
    net = models.net_from_config(config)
    net.load_state_dict(from_published(load_weights("edm_heun_sampler"), config, "edm"))
    images = EDMSampler()(Denoiser(net), io["latents"], io["class_labels"], num_steps=5)
    assert_within(images, io["x_final_steps5"], tolerance(meta, "x_final_steps5"))


def test_generate_script_with_one_line_changed():
    sampler_fn = EDMSampler(kind="denoiser")
    net = TinyEDM(channels=2)
    images = edm_generate(sampler_fn, net, [3, 4, 5], num_steps=4, rho=7, S_churn=0)
    # Algorithm 1, written out.
    rnd, sigmas = StackedGenerators([3, 4, 5]), sampling_sigmas("heun", 4)
    x = rnd.randn([3, 2, 4, 4]).double() * sigmas[0]
    labels = torch.eye(3)[[0, 1, 2]]
    net.eval()
    with torch.no_grad():
        for t, t_next in pairwise(sigmas):
            d, h = (x - net(x, t, labels)) / t, t_next - t
            euler = x + h * d
            d_next = (euler - net(euler, t_next, labels)) / t_next if t_next > 0 else d
            x = x + h * (d + d_next) / 2
    close(images, x, 1e-9)


def test_every_image_depends_on_its_own_seed_alone():
    sampler_fn, net = EDMSampler(kind="denoiser"), TinyEDM()
    options = dict(num_steps=5, **CHURN)
    together = edm_generate(sampler_fn, net, [3, 4, 5, 6], **options)
    apart = [edm_generate(sampler_fn, net, seeds, **options) for seeds in ([3], [4, 5, 6])]
    close(together, torch.cat(apart))


@pytest.mark.parametrize("kind", ["consistency", "trajectory"])
def test_models_that_jump(kind):
    model = small_model(kind)
    latents = pattern(2, 2, 4, 4)
    images = EDMSampler()(model, latents)
    with torch.no_grad():
        expected = model.eval().jump(latents.double() * 80, 80.0, model.sigma_min)
    close(images, expected)


def test_a_wrapped_function_of_two_times():
    def net(x, sigma, sigma_to):
        levels = [((0.25 + v**2) ** 0.5).reshape(-1, 1, 1, 1) for v in (sigma, sigma_to)]
        return x * (levels[1] / levels[0]).to(x.dtype)

    model = wrap(net, kind="trajectory", time="edm", shape=(1, 4, 4))
    images = EDMSampler(steps=3)(model, pattern(2, 1, 4, 4))
    expected = pattern(2, 1, 4, 4) * 80 * ((0.25 + 0.002**2) / (0.25 + 80**2)) ** 0.5
    close(images, expected.double(), 1e-5)


def test_two_jumps_of_a_consistency_function_use_the_hosts_noise():
    net, noise = TinyEDM(), PatternNoise()
    latents = pattern(2, 1, 4, 4)
    images = EDMSampler(kind="consistency", steps=2)(
        net, latents, LABELS, randn_like=noise.randn_like
    )
    sigmas = sampling_sigmas("cm_multistep", 2)
    net.eval()
    x = net(latents.double() * sigmas[0], sigmas[0], LABELS)
    std = (sigmas[1] ** 2 - sigmas[2] ** 2).sqrt()
    x = x + std * pattern(2, 1, 4, 4, step=1, dtype=torch.float64)
    close(images, net(x, sigmas[1], LABELS).detach())
    assert noise.drawn == 1


def test_gamma_jumps():
    model, noise = small_model(), PatternNoise()
    sampler = EDMSampler(gamma=0.4)
    images = sampler(model, pattern(2, 2, 4, 4), num_steps=3, randn_like=noise.randn_like)
    assert noise.drawn == 2 and images.shape == (2, 2, 4, 4)


def test_edm2_with_its_keywords_and_guidance():
    net, gnet = TinyEDM(), TinyEDM(classes=0)
    gnet.weight.data.fill_(0.2)
    sampler_fn = EDMSampler(kind="denoiser")
    seeds = [1, 2]
    options = dict(seeds=seeds, sampler_fn=sampler_fn, num_steps=4)
    images = edm2_generate_images(net, gnet, guidance=1.7, **options)
    assert images.dtype == torch.float32

    def guided(x, sigma, labels):
        weak = gnet(x, sigma)
        return weak + 1.7 * (net(x, sigma, labels) - weak)

    net.eval(), gnet.eval()
    noise = StackedGenerators(seeds).randn([2, 1, 4, 4])
    expected = sampler_fn(guided, noise, torch.eye(3)[[1, 2]], num_steps=4)
    close(images.double(), expected, 1e-4)
    plain = edm2_generate_images(net, **options)
    assert (plain - images).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_latents_of_every_dtype_and_the_dtype_asked_for(dtype):
    latents, net = pattern(2, 1, 4, 4).to(dtype), TinyEDM()
    images = EDMSampler(kind="denoiser")(net, latents, LABELS, num_steps=6)
    assert images.dtype == torch.float64
    close(images, golden("edm_heun"), 1e-12 if dtype != torch.float16 else 5e-2)
    single = EDMSampler(kind="denoiser")(net, latents, LABELS, num_steps=6, dtype=torch.float32)
    assert single.dtype == torch.float32
    with pytest.raises(ValueError, match=r"float16.*need"):
        EDMSampler(kind="denoiser")(net, latents, LABELS, dtype=torch.float16)


def test_integer_labels_are_made_one_hot():
    run = EDMSampler(kind="denoiser")
    images = run(TinyEDM(), pattern(2, 1, 4, 4), torch.tensor([0, 2]), num_steps=6)
    close(images, golden("edm_heun"))
    with pytest.raises(ValueError, match=r"\[0, 3\] are outside \[0, 3\)"):
        run(TinyEDM(), pattern(2, 1, 4, 4), torch.tensor([0, 3]))


def test_modes_gradients_and_the_global_generator_are_left_alone():
    net = TinyEDM().train()
    net.inner.eval()
    before = torch.get_rng_state()
    images = EDMSampler(kind="denoiser")(net, pattern(1, 1, 4, 4), LABELS[:1], num_steps=3)
    assert torch.equal(before, torch.get_rng_state())
    assert net.training and not net.inner.training
    assert not images.requires_grad and not images.is_inference()


def test_the_range_is_the_networks():
    net = TinyEDM()
    assert clamped(net, 0.002, 80) == (0.002, 80)
    net.sigma_min, net.sigma_max = 0.01, 50.0
    assert clamped(net, 0.002, 80) == (0.01, 50)
    assert clamped(object(), 0.002, 80) == (0.002, 80)


def test_levels_that_a_network_rounds():
    def even(sigma):
        return (torch.as_tensor(sigma) / 2).ceil() * 2

    assert rounded(even, [7.5, 3.0, 0.0]) == [8.0, 4.0, 0.0]
    assert rounded(None, [7.5, 0.0]) == [7.5, 0.0]
    options = dict(S_churn=4.0, S_min=0.05, S_max=50.0, S_noise=1.0)
    churn = RoundedChurn.on([8.0, 4.0, 0.01, 0.0], lambda i: pattern(1), even, **options)
    assert [churn.sigma_hat(sigma) for sigma in (8.0, 4.0, 0.01)] == [12.0, 6.0, 0.01]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(solver="heun"), r"does not take solver='heun'; it takes net"),
        (dict(num_step=4), "num_step=4"),
        (dict(labels=LABELS), "labels once"),
        (dict(noise=torch.zeros(2, 1, 4, 4)), "noise once"),
        (dict(guidance=2.0), "needs a guiding network"),
        (dict(num_steps=4), r"num_steps=4.*steps=6.*--steps=6"),
        (dict(guidance=2.0, gnet=None), "guiding network gnet"),
    ],
)
def test_what_means_nothing_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        EDMSampler(kind="denoiser", steps=6)(TinyEDM(), pattern(2, 1, 4, 4), LABELS, **options)


def test_churn_means_nothing_to_a_model_that_jumps():
    with pytest.raises(ValueError, match=r"S_churn.*'exact'"):
        EDMSampler()(small_model(), pattern(1, 2, 4, 4), num_steps=2, S_churn=20)


def test_the_kind_is_said_or_certain():
    latents = pattern(2, 1, 4, 4)
    with pytest.raises(ValueError, match="say kind='denoiser'"):
        EDMSampler()(TinyEDM(), latents, LABELS)
    close(EDMSampler()(EDMPrecond(), latents, LABELS, num_steps=6), golden("edm_heun"))
    with pytest.raises(ValueError, match="kind 'denoiser'"):
        EDMSampler(kind="consistency")(small_model("denoiser"), latents)
    with pytest.raises(ValueError, match=r"no.*wrap\(net"):
        EDMSampler(kind="trajectory")(TinyEDM(), latents)
    with pytest.raises(ValueError, match="method 'heun'"):
        EDMSampler(kind="consistency", method="heun")
    with pytest.raises(ValueError, match="jumps"):
        EDMSampler(method="jumps")


def test_a_trajectory_model_may_be_solved_as_a_denoiser():
    model, latents = small_model(), pattern(2, 2, 4, 4)
    images = EDMSampler(kind="denoiser", method="euler")(model, latents, num_steps=1)
    with torch.no_grad():
        close(images, model.eval()(latents.double() * 80, 80.0))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies(again):
    sampler = EDMSampler(steps=2, kind="trajectory", gamma=0.3)
    assert again(sampler) == sampler and again(EDMSampler()) == EDMSampler()


def test_golden_file_holds_the_cases_of_every_host():
    from .tiny_hosts import GOLDEN

    names = {name.split("_")[0] for name in load_file(GOLDEN / "hosts.safetensors")}
    assert names == {"edm", "ect", "k", "flow", "openai", "sony"}


def test_churn_chosen_here_and_not_by_the_host():
    net, latents = TinyEDM(), pattern(2, 1, 4, 4)
    runs = []
    for sampler, options in (
        (EDMSampler(kind="denoiser", method="churn"), dict(S_min=0.1)),
        (EDMSampler(kind="denoiser"), dict(S_churn=40, S_min=0.1, S_max=50, S_noise=1.003)),
    ):
        draw = PatternNoise().randn_like
        runs.append(sampler(net, latents, LABELS, randn_like=draw, num_steps=8, **options))
    assert torch.equal(*runs)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_below_one(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}"):
        EDMSampler(kind="denoiser")(TinyEDM(), pattern(1, 1, 4, 4), LABELS[:1], num_steps=steps)
