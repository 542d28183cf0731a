"""Batches and random numbers are functions of the seed and the step."""

import pytest
import torch

from ctm_fast.losses import CTM
from ctm_fast.trainer import TrainConfig, World
from ctm_fast.trainer.feed import Feed
from tests.trainer import tiny

ALONE = World()


def feed(world=ALONE, labelled=True, **options):
    config = TrainConfig(batch_size=8, **options)
    return Feed(CTM(num_scales=4), tiny.dataset(), config, world, torch.device("cpu"), labelled)


def test_processes_share_the_global_batch():
    whole = feed()(3, 0.0)
    parts = [feed(World(rank, 2))(3, 0.0) for rank in range(2)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    for name, value in whole.draw.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(torch.cat([part.draw[name] for part in parts]), value)
        else:
            assert all(part.draw[name] == value for part in parts)


def test_batches_depend_on_step_and_seed_only():
    first, again = feed(), feed()
    again(0, 0.0), again(7, 0.5)
    torch.manual_seed(3)
    a, b = first(2, 0.0), again(2, 0.0)
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.draw["noise"], b.draw["noise"])
    other = feed(seed=1)(2, 0.0)
    assert not torch.equal(a.draw["noise"], other.draw["noise"])
    assert not torch.equal(a.images, other.images)
    assert not torch.equal(a.draw["noise"], first(3, 0.0).draw["noise"])


def test_labels_only_where_the_student_takes_them():
    assert feed(labelled=False)(0, 0.0).labels is None


def test_the_batch_has_to_divide():
    with pytest.raises(ValueError, match="batch_size=8 does not divide among 3 processes"):
        feed(World(0, 3))
