"""`Sampler` with seeds, generators or a host's function as the source of all noise."""

import pytest
import torch

from ctm_fast.sampler import Sampler
from tests.inference.fake_cuda import FakeCuda

from .worlds import World, flow, latents, unet_model

STOCHASTIC = [
    ("trajectory", dict(steps=3, gamma=0.6)),
    ("consistency", dict(steps=3)),
    ("denoiser", dict(method="churn", steps=6)),
]


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


class Stacked:
    """As EDM's generate.py: one generator per image, all images at once."""

    def __init__(self, seeds):
        self.generators = [generator(seed) for seed in seeds]

    def randn_like(self, x):
        assert len(x) == len(self.generators)
        return torch.stack(
            [torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in self.generators]
        )


@pytest.mark.parametrize("kind, options", STOCHASTIC)
def test_one_generator_per_image_in_any_batches(kind, options):
    whole = Sampler(World(kind), clip=False, **options)(generator=[generator(k) for k in range(5)])
    for size in (1, 2, 3, 5):
        split = Sampler(World(kind), clip=False, batch_size=size, **options)
        assert torch.equal(split(generator=[generator(k) for k in range(5)]), whole)
    other = Sampler(World(kind), clip=False, **options)(generator=[generator(k) for k in (3, 1)])
    assert torch.equal(other, whole[[3, 1]])


@pytest.mark.parametrize("kind, options", STOCHASTIC)
def test_a_host_s_stacked_generators_are_one_generator_per_image(kind, options):
    sampler = Sampler(World(kind), clip=False, state_dtype=torch.float64, **options)
    expected = sampler(generator=[generator(k) for k in (7, 8)])
    assert torch.equal(sampler(2, randn_like=Stacked((7, 8)).randn_like), expected)
    x = latents(2)
    given = sampler(noise=x, randn_like=Stacked((7, 8)).randn_like)
    assert torch.equal(given, sampler(noise=x, generator=[generator(k) for k in (7, 8)]))


def test_the_order_in_which_a_generator_is_asked():
    sampler = Sampler(World(), sigmas=[80.0, 2.0, 0.002], gamma=1.0, clip=False)
    draws, x = generator(), None
    x = flow(80 * torch.randn(3, 2, 4, 4, generator=draws), 80.0, 0.002)
    lift = (2.0**2 - 0.002**2) ** 0.5
    x = flow(x + lift * torch.randn(3, 2, 4, 4, generator=draws), 2.0, 0.002)
    torch.testing.assert_close(sampler(3, generator=generator()), x)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.testing.assert_close(sampler(3, randn_like=torch.randn_like), x)


@pytest.mark.parametrize("method", ("exact", "heun"))
def test_deterministic_methods_draw_once_for_all_images(method):
    sampler = Sampler(World(), 2, method, batch_size=2, clip=False)
    used, unused = generator(), generator()
    images = sampler(5, generator=used)
    first = torch.randn(5, 2, 4, 4, generator=unused)
    assert torch.equal(used.get_state(), unused.get_state())
    assert torch.equal(images, sampler(noise=80 * first))
    path = sampler.trajectory(5, generator=generator())
    assert torch.equal(path[-1][1], images)


def test_the_global_generator_is_left_alone_and_misuse_is_refused():
    sampler, before = Sampler(World(), 2, gamma=0.5), torch.get_rng_state()
    sampler(2, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)
    for call, named in [
        (dict(num=2, seed=0, generator=generator()), "seed and generator"),
        (dict(num=2, generator=[generator()]), "disagree"),
        (dict(num=2, randn_like=lambda x: x[:1]), "randn_like returned"),
    ]:
        with pytest.raises(ValueError, match=named):
            sampler(**call)


def test_host_noise_with_graphs_of_single_calls(monkeypatch):
    model = unet_model()
    options = dict(steps=3, gamma=0.5)
    FakeCuda(monkeypatch)
    sampler = Sampler(model, graphs=True, buckets=(2,), batch_size=2, **options)
    single = [generator(k) for k in range(5)]
    images = sampler(generator=single)
    assert len(sampler.__dict__["_engine"].pool) == 1, "a graph of one call"
    plain = Sampler(model, freeze=False, **options)(generator=[generator(k) for k in range(5)])
    torch.testing.assert_close(images, plain, rtol=0, atol=1e-4)
