"""Infinite shuffling: one sequence, whatever the batch size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctm_fast.data import batch_indices


def sequence(count: int, batch_size: int, size: int, seed: int) -> list[int]:
    steps = -(-count // batch_size)
    parts = [batch_indices(step, batch_size, size, seed) for step in range(steps)]
    return torch.cat(parts).tolist()[:count]


@settings(deadline=None, max_examples=50)
@given(
    size=st.integers(1, 40),
    one=st.integers(1, 100),
    other=st.integers(1, 100),
    seed=st.integers(0, 2**40),
)
def test_the_sequence_does_not_depend_on_the_batch_size(size, one, other, seed):
    assert sequence(120, one, size, seed) == sequence(120, other, size, seed)


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 40), batch_size=st.integers(1, 100))
def test_every_epoch_holds_every_image_once(size, batch_size):
    images = sequence(3 * size, batch_size, size, seed=5)
    for epoch in range(3):
        assert sorted(images[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_differ():
    epochs = [batch_indices(step, 100, 100, seed=0).tolist() for step in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert batch_indices(0, 100, 100, seed=1).tolist() != epochs[0]
    assert epochs[0] != sorted(epochs[0])


def test_pure_function_of_the_step():
    first = batch_indices(7, 16, 50, seed=3)
    batch_indices(100, 16, 50, seed=3)
    torch.manual_seed(0)
    again = batch_indices(7, 16, 50, seed=3)
    assert torch.equal(first, again)
    assert first.dtype == torch.int64 and first.shape == (16,)


def test_a_changed_result_does_not_change_the_next_one():
    first = batch_indices(0, 10, 10, seed=0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(batch_indices(0, 10, 10, seed=0), kept)


def test_far_steps_are_cheap_and_valid():
    far = batch_indices(10**12, 512, 1797, seed=0)
    assert int(far.min()) >= 0 and int(far.max()) < 1797


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 4, 10, 0), "step must be at least 0, got -1"),
        ((0, 0, 10, 0), "batch_size must be at least 1, got 0"),
        ((0, 4, 0, 0), "size must be at least 1, got 0"),
    ],
)
def test_wrong_use(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_indices(*arguments)
