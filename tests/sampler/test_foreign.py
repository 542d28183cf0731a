"""`Sampler` on callables of other codebases: their own samplers' images, options, copies."""

import copy
import dataclasses
import inspect
import pickle
from itertools import pairwise

import pytest
import torch

from ctm_fast.sampler import Sampler, image_seeds, noise_for
from ctm_fast.sampler.foreign import NAMES, Foreign
from ctm_fast.wrappers import Wrapped, wrap

from ..wrappers.hosts import DATA, HOSTS, IntegerNet, Net, OneHotNet, seeded
from ..wrappers.test_wrap import JUMPS, model_of
from .worlds import small_model

EXACT = dict(state_dtype=torch.float64, clip=False)
SHAPE = (1, 4, 4)
UNIT = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
AS_UNIT = dict(latents="unit", **EXACT)


@pytest.mark.parametrize("kind, time, prediction", JUMPS)
@pytest.mark.parametrize("options", (dict(steps=1), dict(steps=3), dict(steps=3, gamma=0.5)))
def test_jumps_of_every_kind_are_exact(kind, time, prediction, options):
    sampler = Sampler(model_of(kind, time, prediction), **AS_UNIT, **options)
    path = sampler.trajectory(noise=UNIT)
    high, low = sampler.sigmas[0], sampler.sigmas[-1]
    if "gamma" not in options:
        exact = DATA.jump(high * UNIT, high, low)
        torch.testing.assert_close(path[-1][1], exact, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(sampler(noise=UNIT), path[-1][1])
        assert not torch.equal(sampler(noise=UNIT, seed=1), path[-1][1])


def test_a_mean_flow_model_gives_its_own_sampler_s_images():
    net, times = HOSTS["flow"].average_velocity, torch.linspace(1, 0, 4).double()
    z = UNIT
    for t, r in pairwise(times):
        # The exact function has no value at t = 1 itself.
        t, r = t.clamp(1e-7, 1 - 1e-7).expand(3), r.clamp(1e-7).expand(3)
        z = z - (t - r).reshape(-1, 1, 1, 1) * net(z, t, r)
    sampler = Sampler(net, 3, kind="average_velocity", time="flow", **AS_UNIT)
    torch.testing.assert_close(sampler(noise=UNIT), z, rtol=1e-5, atol=1e-5)
    assert sampler.method == "exact" and sampler.nfe == 3


@pytest.mark.parametrize("time", ("flow", "flow_matching"))
@pytest.mark.parametrize("state", (torch.float64, torch.float32))
def test_euler_on_a_velocity_is_the_host_s_euler(time, state):
    net = seeded(Net, 0, 1).eval()
    sampler = Sampler(
        net, 5, "euler", kind="velocity", time=time, latents="unit", state_dtype=state, clip=False
    )
    x, grid = UNIT.float(), torch.linspace(*((1, 0) if time == "flow" else (0, 1)), 6)
    with torch.no_grad():
        for t, to in pairwise(grid):
            x = x + (to - t) * net(x, t.expand(3))
    torch.testing.assert_close(sampler(noise=UNIT).float(), x, rtol=2e-5, atol=2e-5)
    assert sampler.sigmas[-1] == 0 and sampler.sigmas[0] == 1e6


@pytest.mark.parametrize("time", ("edm", "flow", "flow_matching", "trigflow", "diffusers"))
def test_heun_solves_every_time_on_karras_levels(time):
    velocity = time != "diffusers"
    model = model_of("velocity", time) if velocity else model_of("denoiser", time, "epsilon")
    sampler = Sampler(model, 60, **AS_UNIT)
    high = sampler.sigmas[0]
    assert sampler.method == "heun" and high == (80 if velocity else model.sigma_max)
    exact = DATA.jump(high * UNIT, high, 0.0)
    torch.testing.assert_close(sampler(noise=UNIT), exact, rtol=1e-2, atol=1e-2)


def test_levels_of_a_flow_model():
    def made(**options):
        return Sampler(HOSTS["flow"].velocity, kind="velocity", time="flow", **options)

    assert made(method="euler", steps=4).sigmas == pytest.approx((1e6, 3, 1, 1 / 3, 0), rel=1e-5)
    karras = made(method="euler", steps=4, rho=7.0).sigmas
    assert karras == made(method="heun", steps=4).sigmas and karras[0] == 80
    assert made(method="euler", sigmas=[1e5, 1, 0]).sigmas == (1e5, 1, 0)
    assert made(method="euler", steps=2, sigma_max=9).sigmas == pytest.approx(
        (9, 9 / 11, 0), rel=1e-5
    )
    assert made(steps=2, sigma_max=300, sigma_min=0.1).sigmas == (300, 0.1, 0)


def test_consistency_functions_jump_and_are_given_noise_again():
    sampler = Sampler(HOSTS["edm"].consistency, kind="consistency", shape=SHAPE, **EXACT)
    seeds = image_seeds(0, 5)
    first = 80 * noise_for(seeds, 0, SHAPE, dtype=torch.float64)
    torch.testing.assert_close(sampler(5), DATA.jump(first, 80.0, 0.0), rtol=1e-6, atol=1e-6)
    assert sampler.method == "onestep"
    many = Sampler(HOSTS["flow"].consistency, 4, kind="consistency", time="flow", shape=SHAPE)
    assert many.method == "cm_multistep" and many(5).shape == (5, *SHAPE)


@pytest.mark.parametrize("batch_size", (1, 2, 5))
def test_batch_split(batch_size):
    def made(**options):
        net = HOSTS["flow"].consistency
        return Sampler(net, 3, kind="consistency", time="flow", shape=SHAPE, **EXACT, **options)

    assert torch.equal(made(batch_size=batch_size)(5, seed=4), made()(5, seed=4))


@pytest.mark.parametrize("cls, labels", ((OneHotNet, "onehot"), (IntegerNet, "int")))
def test_labels_reach_the_callable(cls, labels):
    net = seeded(cls, 5)
    sampler = Sampler(net, 2, kind="denoiser", label_dim=5, labels=labels, shape=(3, 4, 4))
    images = sampler(labels=[4, 0, 4], seed=[1, 1, 1])
    assert torch.equal(images[0], images[2]) and not torch.equal(images[0], images[1])
    assert net.seen[0].shape == ((3, 5) if labels == "onehot" else (3,))
    assert sampler(6).shape == (6, 3, 4, 4)
    with pytest.raises(ValueError, match="outside"):
        sampler(labels=[5])
    with pytest.raises(ValueError, match="label_dim="):
        Sampler(seeded(Net), kind="denoiser", shape=(3, 4, 4))(labels=[0])


@pytest.mark.parametrize("how", (lambda net: net, lambda net: net.body))
def test_eval_mode_inside_and_the_previous_modes_afterwards(how):
    net = seeded(Net)
    net.last.eval()
    modes = [module.training for module in net.modules()]
    sampler = Sampler(how(net), 2, kind="denoiser", shape=(3, 4, 4))
    before = torch.get_rng_state()
    assert torch.equal(sampler(3), sampler(3)), "dropout is off"
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(mode for *_, mode in net.seen)


@pytest.mark.parametrize("own", (torch.float64, torch.float32, torch.float16, torch.bfloat16))
def test_networks_of_every_dtype(own):
    expected = Sampler(seeded(Net).double(), 4, kind="denoiser", shape=(3, 4, 4), **EXACT)(2)
    for state in (torch.float32, torch.float64):
        net = seeded(Net).to(own)
        images = Sampler(
            net, 4, kind="denoiser", shape=(3, 4, 4), state_dtype=state, clip=False
        )(2)  # fmt: skip
        assert images.dtype == state and net.seen[0][0] == own
        tolerance = {8: 1e-4, 4: 1e-4, 2: 5e-2}[own.itemsize]
        torch.testing.assert_close(images.double(), expected, rtol=0, atol=tolerance)
    assert next(net.parameters()).dtype == own


def test_copies_pickles_and_replacements():
    net = seeded(Net)
    sampler = Sampler(net, 2, kind="velocity", time="flow", shape=(3, 4, 4))
    images = sampler(2, seed=3)
    for twin in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert repr(twin) == repr(sampler) and torch.equal(twin(2, seed=3), images)
        assert twin.model.net.net is not net
    again = dataclasses.replace(sampler, clip=False, steps=None, sigmas=(80.0, 1.0, 0.0))
    assert again.model is sampler.model and again.steps == 2


def test_repr_says_what_the_callable_was_taken_for():
    sampler = Sampler(seeded(Net), kind="velocity", time="flow", shape=(3, 4, 4))
    assert repr(sampler).startswith(
        "Sampler(Wrapped of kind 'denoiser' (Net as velocity in flow time"
    )
    assert isinstance(sampler.model, Wrapped) and not sampler.freeze


def test_keywords_are_those_of_wrap():
    taken = list(inspect.signature(wrap).parameters)[1:]
    assert sorted(NAMES) == sorted(set(taken) - {"dtype"})
    assert not dataclasses.fields(Foreign), "they are used up"
    with pytest.raises(TypeError, match="scheduler"):
        Sampler(seeded(Net), kind="denoiser", scheduler=1)


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: Sampler(lambda x, t: x), "kind="),
        (lambda: Sampler(small_model(), kind="consistency"), "knows its own conventions"),
        (lambda: Sampler(lambda x, t: x, kind="denoiser")(2), r"shape=\(C, H, W\)"),
        (lambda: Sampler(lambda x, t: x, kind="denoiser", shape=SHAPE, method="exact"), "heun"),
        (lambda: Sampler(lambda x, t: x, kind="consistency", method="heun"), "onestep"),
        (lambda: Sampler(lambda x, t: x, kind="denoiser", sigmas=[90, 1, 0]), "range"),
        (lambda: Sampler(lambda x, t: x[:1], kind="denoiser", shape=SHAPE)(2), "answered"),
        (lambda: Sampler(lambda x, t: x, kind="denoiser", dtype=torch.int8), "bfloat16"),
    ],
)  # fmt: skip
def test_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_a_callable_of_unknown_shape_takes_noise():
    sampler = Sampler(HOSTS["edm"].denoiser, 4, kind="denoiser", clip=False)
    for size in ((1, 4, 4), (3, 6, 8)):
        assert sampler(noise=80 * torch.randn(2, *size)).shape == (2, *size)
    wide = Sampler(HOSTS["edm"].denoiser, 4, kind="denoiser", shape=(3, 6, 8))
    assert wide(2).shape == (2, 3, 6, 8)


def test_own_models_take_the_keyword_of_their_kind():
    model = small_model("consistency")
    assert Sampler(model, kind="consistency").model is model
