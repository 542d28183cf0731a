"""One random stream per image."""

import numpy as np
import pytest
import torch

from ctm_fast.sampler import image_seeds, noise_for
from ctm_fast.sampler.seeding import (
    GeneratorNoise,
    HostNoise,
    LikeNoise,
    SeededNoise,
    as_seeds,
    seed_tensor,
)

SHAPE = (2, 4, 4)
FIRST = [0.991137683, -0.924662590, -0.617608905, -0.482068568]  # of seed 0 and step 0


def test_a_row_depends_on_its_seed_and_the_step_alone():
    noise = noise_for([3, 5, 7], 1, SHAPE)
    assert torch.equal(noise[1:2], noise_for([5], 1, SHAPE))
    assert torch.equal(noise.flip(0), noise_for([7, 5, 3], 1, SHAPE))
    assert not torch.equal(noise, noise_for([3, 5, 7], 2, SHAPE))
    assert noise.unbind()[0].ne(noise[1]).all()


def test_precision_does_not_change_the_noise():
    single = noise_for([1, 2], 0, SHAPE)
    assert torch.equal(noise_for([1, 2], 0, SHAPE, dtype=torch.float64), single.double())


def test_seeds_may_be_any_integers_or_a_tensor():
    seeds = [-1, 0, 2**63, 2**64 - 1, 2**70 + 3, -(2**63)]
    noise = noise_for(seeds, 0, SHAPE)
    assert torch.equal(noise[0], noise[3]), "seeds are taken modulo 2^64"
    assert torch.equal(noise_for([3], 0, SHAPE)[0], noise[4])
    assert torch.equal(noise[2], noise[5]) and not torch.equal(noise[1], noise[0])
    assert torch.equal(noise_for(torch.tensor([-1, 0]), 0, SHAPE), noise[:2])
    there = noise_for(seeds, 0, SHAPE, device="meta")
    assert there.is_meta and there.shape == (6, *SHAPE)
    assert seed_tensor(seeds).tolist() == [-1, 0, -(2**63), -1, 3, -(2**63)]


def test_numbers_of_a_seed_stay_as_they_are():
    expected = torch.tensor(FIRST)
    torch.testing.assert_close(noise_for([0], 0, (4,))[0], expected, rtol=1e-6, atol=0)


@pytest.mark.gpu
def test_gpu_draws_the_same_noise_without_waiting():
    seeds = image_seeds(0, 16)
    noise_for(seeds, 0, (3, 32, 32), "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = noise_for(seeds, 0, (3, 32, 32), "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(there.cpu(), noise_for(seeds, 0, (3, 32, 32)), rtol=1e-6, atol=0)


def test_noise_is_unit_gaussian_and_uncorrelated_between_images_and_steps():
    seeds = image_seeds(0, 64)
    noise = torch.stack([noise_for(seeds, step, (16, 16)) for step in range(4)]).flatten(2)
    assert noise.mean().abs() < 4 / noise.numel() ** 0.5
    assert abs(noise.std() - 1) < 4 / (2 * noise.numel()) ** 0.5
    rows = noise.flatten(0, 1)
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 6 / rows.shape[1] ** 0.5


def test_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    noise_for([0], 0, SHAPE)
    assert torch.equal(before, torch.get_rng_state())


def test_image_seeds_can_be_cut_anywhere():
    seeds = image_seeds(0, 64)
    assert seeds[10:20] == image_seeds(0, 10, start=10)
    assert len(set(seeds + image_seeds(1, 64))) == 128
    assert all(seed >= 0 for seed in seeds)


def test_integer_and_list_seeds():
    assert as_seeds(4, 3) == image_seeds(4, 3)
    assert as_seeds(torch.tensor([9, 9, 1]), 3) == [9, 9, 1]
    assert as_seeds((1, 2), 2) == [1, 2]
    assert as_seeds(np.int64(4), 3) == as_seeds(4, 3)
    assert as_seeds([np.int64(4), 5], 2) == [4, 5]


@pytest.mark.parametrize(
    "seed, named", [([1, 2], "2 entries"), ([1, 2, 0.5], "0.5"), ("abc", "abc"), (None, "None")]
)
def test_bad_seeds(seed, named):
    with pytest.raises(ValueError, match=named):
        as_seeds(seed, 3)


def test_seeded_noise_recognises_the_step_by_its_level():
    like = torch.zeros(2, *SHAPE, dtype=torch.float64)
    noise = SeededNoise([1, 2], [80.0, 3.0, 0.1], like)
    third = noise(torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.0))
    first = noise(torch.tensor(80.0, dtype=torch.float64), torch.tensor(3.0))
    assert third.dtype == torch.float64
    assert torch.equal(first, noise_for([1, 2], 1, SHAPE, dtype=torch.float64))
    assert torch.equal(third, noise_for([1, 2], 3, SHAPE, dtype=torch.float64))


def test_generator_noise_follows_its_generator_or_the_global_one():
    like, level = torch.zeros(2, *SHAPE), torch.tensor(1.0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = torch.randn(like.shape)
        torch.manual_seed(3)
        assert torch.equal(GeneratorNoise(like)(level, level), expected)
    own = GeneratorNoise(like, torch.Generator().manual_seed(3))
    assert torch.equal(own(level, level), expected)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_one_generator_per_image():
    like, level = torch.zeros(3, *SHAPE, dtype=torch.float64), torch.tensor(1.0)
    noise = GeneratorNoise(like, generators(5, 6, 7))
    first, second = noise(level, level), noise(level, level)
    (alone,) = generators(6)
    for drawn in (first, second):
        expected = torch.randn(SHAPE, generator=alone, dtype=torch.float64)
        assert torch.equal(drawn[1], expected)
    with pytest.raises(ValueError, match="2 generators for 3 images"):
        GeneratorNoise(like, generators(1, 2))


def test_a_host_s_own_function_draws():
    like, level = torch.zeros(3, *SHAPE, dtype=torch.float64), torch.tensor(1.0)
    seen = []

    def randn_like(x):
        seen.append(x)
        return torch.ones(x.shape)

    noise = LikeNoise(like, randn_like)(level, level)
    assert noise.dtype == torch.float64 and noise.sum() == like.numel() and seen[0] is like
    for wrong in (torch.zeros(2), None):
        with pytest.raises(ValueError, match="randn_like returned"):
            LikeNoise(like, lambda x, wrong=wrong: wrong)(level, level)


def test_host_noise_of_a_part_of_the_run_and_of_padding():
    level, like = torch.tensor(1.0), torch.zeros(4, *SHAPE)
    first = HostNoise(generators(1, 2, 3, 4)).first(like)
    part = HostNoise(generators(1, 2, 3, 4)).sampler(like[:2], 2, 2)(level, level)
    assert torch.equal(part, first[2:])
    padded = HostNoise(generators(1, 2, 3, 4)).sampler(like, 1, 2)(level, level)
    assert torch.equal(padded[:2], first[1:3]) and torch.equal(padded[2:], first[[2, 2]])
    (one,) = generators(9)
    assert torch.equal(
        HostNoise(one).first(like), torch.randn(4, *SHAPE, generator=generators(9)[0])
    )
    ones = HostNoise(randn_like=torch.ones_like)
    assert torch.equal(ones.sampler(like, 0, 3)(level, level), torch.ones_like(like))


@pytest.mark.gpu
def test_gpu_noise_of_generators_on_either_side():
    like, level = torch.zeros(2, *SHAPE, device="cuda"), torch.tensor(1.0)
    here = GeneratorNoise(like, generators(1, 2))(level, level)
    assert here.is_cuda and torch.equal(
        here.cpu(), GeneratorNoise(like.cpu(), generators(1, 2))(level, level)
    )
    there = torch.Generator("cuda").manual_seed(3)
    assert GeneratorNoise(like, there)(level, level).is_cuda
