"""Counter-based random streams."""

import torch

from ctm_fast.rng import stream, stream_seed


def numbers(*counters):
    return torch.randn(3, generator=stream(*counters)).tolist()


def test_same_counters_give_same_numbers():
    assert numbers(7, 1, 2) == numbers(7, 1, 2)


def test_every_counter_matters():
    seen = [numbers(*c) for c in [(7,), (7, 0), (7, 0, 0), (7, 1), (1, 7), (71,), (7, -1), (0,)]]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_digits_do_not_run_together():
    assert numbers(1, 23) != numbers(12, 3)


def test_seed_is_the_same_on_every_machine():
    # blake2b of "3,1,4", little endian, without the sign bit.
    assert stream(3, 1, 4).initial_seed() == 7883954957615246587


def test_global_state_is_neither_read_nor_changed():
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), numbers(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert numbers(5) == first


def test_tensors_and_huge_integers_count_as_integers():
    assert numbers(torch.tensor(5), 2**80) == numbers(5, 2**80)
    assert numbers(2**80) != numbers(2**81)


def test_seed_of_a_stream_needs_no_generator():
    for counters in [(0,), (3, 1), (-2, 2**70)]:
        assert stream_seed(*counters) == stream(*counters).initial_seed() >= 0
