"""Who shares a network batch, and in which rows the states lie."""

import pytest
import torch

from ctm_fast.rng import stream
from ctm_fast.solvers.slots import PADDING, Moves, moves, schedule
from ctm_fast.timesteps import TrajectoryLevels

LAWS = [(M, law) for M in (17, 20, 39) for law in ("weighted", "uniform")]


def drawn(M, law, seed, images=176):
    levels = TrajectoryLevels(max_steps=M, step_count=law, per_sample=True)
    return levels.sample(images, M + 1, stream(seed)).num_steps


def numbers(seed, images, most):
    return torch.randint(most + 1, (images,), generator=stream(seed))


@pytest.mark.parametrize("granularity", [1, 3])
@pytest.mark.parametrize("slots", [1, 2, 5, 16, 40])
@pytest.mark.parametrize("seed", range(4))
def test_every_image_gets_its_passes_in_order_and_no_order_is_shorter(seed, slots, granularity):
    passes = numbers(seed, images=1 + 7 * seed, most=9)
    plan = schedule(passes, slots, granularity)
    assert len(plan) == max(int(passes.max()), -(-int(passes.sum()) // slots))
    done = torch.zeros_like(passes)
    for images, before in plan:
        real = images != PADDING
        assert len(images) <= slots and len(images[real].unique()) == int(real.sum()) > 0
        assert len(images) == slots or len(images) % granularity == 0
        assert torch.equal(before[real], done[images[real]])
        done[images[real]] += 1
    assert torch.equal(done, passes)


def test_equal_passes_with_room_for_all_are_whole_batches():
    plan = schedule(torch.full((5,), 3), 8)
    assert [images.tolist() for images, _ in plan] == [[0, 1, 2, 3, 4]] * 3
    assert [before.tolist() for _, before in plan] == [[m] * 5 for m in range(3)]


def test_one_slot_serves_the_longest_first_and_equals_in_order():
    plan = schedule(torch.tensor([1, 2, 0, 2]), 1)
    assert [int(images) for images, _ in plan] == [1, 3, 0, 1, 3]
    again = schedule(torch.tensor([1, 2, 0, 2]), 1)
    assert all(torch.equal(a, b) for p, q in zip(plan, again, strict=True) for a, b in zip(p, q))


def test_batches_are_even_where_the_longest_image_decides():
    plan = schedule(torch.tensor([8, 2, 2, 2, 2]), 5)
    assert [len(images) for images, _ in plan] == [2] * 8


def test_nothing_to_do():
    assert schedule(torch.zeros(4, dtype=torch.int64), 3) == []
    assert schedule(torch.zeros(0, dtype=torch.int64), 3) == []
    with pytest.raises(ValueError, match=r"slots >= 1 .* got 0"):
        schedule(torch.ones(2, dtype=torch.int64), 0)


@pytest.mark.parametrize(("M", "law"), LAWS)
def test_at_most_a_hundredth_is_wasted_over_16_microbatches_of_11(M, law):
    for slots in range(11, 65):
        passes = drawn(M, law, seed=slots)
        padded, exact = (
            sum(len(images) for images, _ in schedule(passes, slots, granularity))
            for granularity in (-(-slots // 8), 1)
        )
        assert exact == int(passes.sum()) <= padded <= 1.01 * exact, slots


@pytest.mark.parametrize("keep", [False, True])
def test_passes_read_what_was_written_last_and_can_be_repeated(keep):
    """Every row is written by one image only, and never read by the pass that writes it."""
    passes, capacity, idle = torch.tensor([3, 0, 5, 1]), 6, 99
    asked = torch.stack([passes // 2, passes]) if keep else passes[None]
    start = torch.tensor([4, 0, 2, 7])
    columns = start[:, None] + torch.arange(5)
    plan = schedule(passes, 3, 2)
    planned = moves(plan, start, columns, asked, capacity, idle, keep)
    assert torch.equal(planned.start, start)
    holds = {int(row): (j, 0) for j, row in enumerate(planned.first)}
    kept = len(asked) if keep else 0
    scratch = Moves.scratch(capacity, kept)
    assert scratch % capacity == 0
    for (images, before), batch in zip(plan, planned.batches, strict=True):
        assert batch.shape == (3, len(images)) and batch.dtype == torch.int64
        for j, m, (source, target, column) in zip(
            images.tolist(), before.tolist(), batch.T.tolist(), strict=True
        ):
            if j == PADDING:
                assert (source, target, column) == (scratch, scratch, idle)
                continue
            assert holds[source] == (j, m) and source != target < scratch
            assert holds.get(target, (j, 0))[0] == j and column == int(start[j]) + m
            holds[target] = (j, m + 1)
    for rows, counts in zip(planned.last, asked, strict=True):
        assert [holds[int(row)] for row in rows] == list(enumerate(counts.tolist()))


def test_the_numbers_travel_in_one_copy():
    passes = torch.tensor([3, 0, 5, 1])
    columns = torch.arange(20).reshape(4, 5)
    planned = moves(schedule(passes, 3, 2), passes, columns, passes[None], 4, 9)
    there = planned.to(torch.device("cpu"))
    assert torch.equal(there.start, planned.start) and torch.equal(there.first, planned.first)
    assert torch.equal(there.last, planned.last)
    assert all(torch.equal(a, b) for a, b in zip(there.batches, planned.batches, strict=True))
    address = there.start.untyped_storage().data_ptr()
    assert all(b.untyped_storage().data_ptr() == address for b in (there.last, *there.batches))
