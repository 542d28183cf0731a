"""Where a host's noise comes from."""

import pytest
import torch

from ctm_fast.integrations.noise import EveryStep, Noise, each
from ctm_fast.sampler import noise_for

from .tiny_hosts import PatternNoise, pattern


def test_one_generator():
    source = Noise(torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    like = torch.zeros(2, 5, dtype=torch.float64)
    for _ in range(2):
        expected = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        assert torch.equal(source.randn_like(like), expected)


def test_the_global_generator():
    before = torch.get_rng_state()
    torch.manual_seed(3)
    drawn = Noise().randn((2, 3))
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.randn(2, 3))
    torch.set_rng_state(before)


def test_seeds_are_those_of_the_sampler():
    source, x = Noise([7, 9]), torch.zeros(2, 1, 3, 3)
    assert torch.equal(source.randn(x.shape), noise_for([7, 9], 0, (1, 3, 3)))
    assert torch.equal(source.randn_like(x), noise_for([7, 9], 1, (1, 3, 3)))
    assert torch.equal(Noise([9]).randn((1, 1, 3, 3)), noise_for([9], 0, (1, 3, 3)))


def test_one_generator_per_image():
    def made(*seeds):
        return Noise([torch.Generator().manual_seed(seed) for seed in seeds])

    both, alone = made(1, 2), made(2)
    x = torch.zeros(2, 5)
    for _ in range(2):
        assert torch.equal(both.randn_like(x)[1:], alone.randn_like(x[1:]))


def test_the_hosts_object():
    source, host = Noise(PatternNoise()), PatternNoise()
    assert torch.equal(source.randn((2, 3)), host.randn(2, 3))
    assert torch.equal(source.randn_like(torch.zeros(2, 3)), host.randn(2, 3))


def test_errors():
    for wrong in (3.5, "seed", [1, 2.5], []):
        with pytest.raises(ValueError, match="generator is"):
            Noise(wrong)
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        Noise([1, 2]).randn((3, 4))


def test_draws_in_the_hosts_order():
    host, like = PatternNoise(), torch.zeros(2, 3)
    draw = EveryStep(host.randn_like, like, [4.0, 2.0, 1.0, 0.0])
    level = torch.tensor
    assert torch.equal(draw(level(2.0), level(1.0)), pattern(2, 3, step=2))
    assert torch.equal(draw(level(1.0), level(0.0)), pattern(2, 3, step=3))
    simple = each(PatternNoise().randn_like, like)
    assert torch.equal(simple(level(1.0), level(0.0)), pattern(2, 3, step=1))
