"""Seeded noise: the published words of Philox, a unit Gaussian, independence, equal backends."""

import math

import pytest
import torch

from ctm_fast.kernels import BackendError, _native, normal
from ctm_fast.kernels.normal import philox

ONES = 0xFFFFFFFF
native = pytest.mark.skipif(_native.ABSENT is not None, reason=str(_native.ABSENT))
BACKENDS = ["reference", pytest.param("native", marks=native)]


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_the_words_that_random123_publishes(counter, key, words) -> None:
    found = philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
    assert tuple(int(word) for word in found) == words


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_are_box_muller_of_the_words(backend: str) -> None:
    seed, step = 0x299F31D0_A4093822, 0x03707344_13198A2E
    words = philox(
        [torch.tensor(c) for c in (1, 0, 0x13198A2E, 0x03707344)],
        [torch.tensor(k) for k in (0xA4093822, 0x299F31D0)],
    )
    expected = []
    for v, w in (words[:2], words[2:]):
        radius = math.sqrt(-2 * math.log((int(v) + 0.5) / 2**32))
        angle = 2 * math.pi * int(w) / 2**32
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    noise = normal(torch.tensor([seed]), step, (2, 4), backend=backend)
    torch.testing.assert_close(noise[0, 1], torch.tensor(expected), rtol=1e-6, atol=0)


@native
def test_every_number_of_the_native_version_is_right_to_a_few_units_in_the_last_place() -> None:
    seeds = torch.randint(-(2**62), 2**62, (64,), generator=torch.Generator().manual_seed(0))
    exact = normal(seeds, 5, (4096,), backend="reference", dtype=torch.float64)
    fast = normal(seeds, 5, (4096,), backend="native").double()
    assert ((fast - exact) / exact).abs().max() < 5e-7


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_depends_on_its_seed_and_the_step_alone(backend: str, threads: None) -> None:
    seeds = torch.tensor([3, -7, 2**62, 3])
    noise = normal(seeds, 2, (3, 21, 19), backend=backend)
    for i, seed in enumerate(seeds):
        assert torch.equal(normal(seed[None], 2, (3, 21, 19), backend=backend)[0], noise[i])
    assert torch.equal(noise[0], noise[3])
    assert torch.equal(normal(seeds.flip(0), 2, (3, 21, 19), backend=backend), noise.flip(0))
    torch.set_num_threads(3)
    assert torch.equal(normal(seeds, 2, (3, 21, 19), backend=backend), noise)
    # A shape only arranges the numbers of a row.
    assert torch.equal(normal(seeds, 2, (1100,), backend=backend), noise.flatten(1)[:, :1100])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [(0, 1), (0, 2**32), (1, -1), (16, 17)])
def test_other_seeds_and_steps_give_other_numbers(backend: str, steps: tuple[int, int]) -> None:
    seeds = torch.tensor([0, 1, -1, 2**32, -(2**63)])
    one, other = (normal(seeds, step, (64,), backend=backend) for step in steps)
    numbers = torch.cat([one, other]).flatten()
    assert len(numbers.unique()) > 0.999 * len(numbers)


def test_steps_are_taken_modulo_two_to_the_64() -> None:
    seeds = torch.arange(3)
    assert torch.equal(normal(seeds, -3, (5,)), normal(seeds, 2**64 - 3, (5,)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_distribution_is_a_unit_gaussian(backend: str) -> None:
    noise = normal(torch.arange(256), 3, (4096,), backend=backend).double().flatten()
    count = len(noise)
    moments = [(noise**k).mean().item() for k in (1, 2, 3, 4, 6)]
    # Variances of the k-th powers: E[x^2k] - E[x^k]^2.
    for found, exact, spread in zip(moments, (0, 1, 0, 3, 15), (1, 2, 15, 96, 10170), strict=True):
        assert abs(found - exact) < 4.5 * math.sqrt(spread / count)
    # Kolmogorov-Smirnov: sqrt(n) D stays below 1.95 in 999 of 1000 samples.
    cumulative = torch.special.ndtr(noise.sort().values)
    ranks = torch.arange(count + 1, dtype=torch.float64) / count
    distance = torch.maximum(ranks[1:] - cumulative, cumulative - ranks[:-1]).max().item()
    assert math.sqrt(count) * distance < 1.95
    assert noise.abs().max() > 4.5


@pytest.mark.parametrize("which", ["seeds", "steps", "neighbours", "distant"])
def test_numbers_are_uncorrelated(which: str) -> None:
    size = 4096
    if which == "steps":
        rows = torch.cat([normal(torch.tensor([11]), step, (size,)) for step in range(48)])
    else:
        rows = normal(torch.arange(48), 0, (size,))
    if which in ("seeds", "steps"):
        correlation = torch.corrcoef(rows.double()) - torch.eye(48)
        assert correlation.abs().max() < 5.5 / math.sqrt(size)
        squares = torch.corrcoef(rows.double() ** 2) - torch.eye(48)
        assert squares.abs().max() < 7 / math.sqrt(size)
        return
    for lag in range(1, 9) if which == "neighbours" else (16, 64, 512, 1024, 2048):
        for power in (1, 2):
            values = rows.double() ** power
            values = (values - values.mean()) / values.std()
            product = (values[:, lag:] * values[:, :-lag]).mean()
            assert abs(product) < 4.5 / math.sqrt(48 * (size - lag))


def test_numbers_beyond_four_billion_blocks_use_the_upper_word() -> None:
    # The counter is (block, step) with 64 bits each: no other way to see it is affordable.
    low = philox([torch.tensor(c) for c in (5, 0, 0, 0)], [torch.tensor(0)] * 2)
    high = philox([torch.tensor(c) for c in (5, 1, 0, 0)], [torch.tensor(0)] * 2)
    assert all(int(a) != int(b) for a, b in zip(low, high, strict=True))


def test_float64_comes_from_the_reference_only() -> None:
    seeds = torch.arange(3)
    exact = normal(seeds, 0, (4, 4), dtype=torch.float64)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), normal(seeds, 0, (4, 4)), rtol=1e-6, atol=0)
    with pytest.raises(BackendError, match="float32 only"):
        normal(seeds, 0, (4, 4), dtype=torch.float64, backend="native")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.zeros(2, dtype=torch.int32), 0, (3,)), r"int32 of shape \(2,\)"),
        ((torch.zeros(2, 1, dtype=torch.int64), 0, (3,)), r"\(2, 1\).*\(batch,\) int64"),
        (([1, 2], 0, (3,)), "list"),
        ((torch.arange(2), 0.5, (3,)), "step is 0.5"),
        ((torch.arange(2), 0, (3, -1)), r"\(3, -1\)"),
        ((torch.arange(2), 0, (3.0,)), r"3\.0"),
    ],
)
def test_wrong_use(args: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normal(*args)
    with pytest.raises(ValueError, match="float16"):
        normal(torch.arange(2), 0, (3,), dtype=torch.float16)


@native
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": 0}, "positive"),
        ({"size": -1}, "positive"),
        ({"batch": 2**40, "size": 2**40}, "overflow"),
        ({"seeds": 0}, "null"),
        ({"noise": 0}, "null"),
        ({"threads": 0}, "thread"),
    ],
)
def test_the_module_refuses_what_would_be_misread(changed: dict, message: str) -> None:
    seeds, noise = torch.arange(2), torch.empty(2, 3)
    call = {"seeds": seeds.data_ptr(), "step": 0, "noise": noise.data_ptr()}
    call |= {"batch": 2, "size": 3, "threads": 1} | changed
    with pytest.raises(ValueError, match=message):
        _native.module.normal(*call.values())
