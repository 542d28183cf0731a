"""Batches and random numbers are functions of the seed and the step."""

import threading
import time

import pytest
import torch

from ctm_fast.losses import CTM
from ctm_fast.losses.sct import SCT
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
    assert (a.draw["step"], first(7, 0.5).draw["step"]) == (2, 7)
    assert not torch.equal(a.draw["noise"], first(3, 0.0).draw["noise"])


def test_labels_only_where_the_student_takes_them():
    assert feed(labelled=False)(0, 0.0).labels is None


def test_the_batch_has_to_divide():
    with pytest.raises(ValueError, match="batch_size=8 does not divide among 3 processes"):
        feed(World(0, 3))


class Slow:
    """A data set that counts readers and remembers who they were."""

    def __init__(self, fail_at: int | None = None):
        self.data, self.threads, self.reading, self.fail_at = tiny.dataset(), [], 0, fail_at

    def __len__(self):
        return len(self.data)

    @property
    def shape(self):
        return self.data.shape

    def images(self, indices):
        self.threads.append(threading.current_thread())
        self.reading += 1
        time.sleep(0.01)
        assert self.reading == 1
        self.reading -= 1
        if self.fail_at == len(self.threads):
            raise OSError("unreadable")
        return self.data.images(indices)

    def labels(self, indices):
        return self.data.labels(indices)


def threaded(data, **options):
    config = TrainConfig(batch_size=8, **options)
    return Feed(CTM(num_scales=4), data, config, ALONE, torch.device("cpu"), True, threaded=True)


def same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.draw["noise"], b.draw["noise"])


def test_batches_made_ahead_are_the_same():
    data, plain = Slow(), feed()
    with threaded(data) as ahead:
        for step in range(4):
            batch = ahead(step, step / 4)
            ahead.expect(step + 1, (step + 1) / 4)
            assert same(batch, plain(step, step / 4))
        # Others than the expected one, by step or by position, and then the expected one again.
        assert same(ahead(9, 0.0), plain(9, 0.0))
        ahead.expect(5, 0.5)
        ahead.expect(6, 0.5)
        assert same(ahead(5, 0.6), plain(5, 0.6))
    main = threading.main_thread()
    assert [thread is main for thread in data.threads] == [
        *(True, False, False, False, False),
        *(True, False, True),
    ]
    assert not any("ctm_fast-feed" in thread.name for thread in threading.enumerate())


def test_an_error_while_making_a_batch_reaches_the_step_that_asks():
    with threaded(Slow(fail_at=2)) as ahead:
        ahead(0, 0.0)
        ahead.expect(1, 0.0)
        with pytest.raises(OSError, match="unreadable"):
            ahead(1, 0.0)
        assert len(ahead(1, 0.0)) == 8
    with threaded(Slow(fail_at=1)) as ahead:
        ahead.expect(0, 0.0)
    with ahead:
        assert len(ahead(0, 0.0)) == 8


def test_nothing_runs_ahead_on_a_cpu_by_itself():
    alone = feed()
    alone.expect(0, 0.0)
    assert alone._thread is None


def test_training_with_a_thread_is_the_same_and_leaves_none(monkeypatch):
    plain, ahead = tiny.trainer(steps=5), tiny.trainer(steps=5)
    ahead._feed.threaded = True
    plain.fit()
    ahead.fit(3), ahead.fit(5)
    for name, value in tiny.weights(plain.student).items():
        assert torch.equal(tiny.weights(ahead.student)[name], value)
    assert not any("ctm_fast-feed" in thread.name for thread in threading.enumerate())


@pytest.mark.gpu
def test_batches_are_copied_from_pinned_memory():
    config = TrainConfig(batch_size=8)
    device = torch.device("cuda", 0)
    with Feed(CTM(num_scales=4), tiny.dataset(), config, ALONE, device, True) as ahead:
        ahead.expect(1, 0.0)
        made = ahead._next[1].result()
        assert made.images.is_pinned()
        batch = ahead(1, 0.0)
    assert batch.images.is_cuda
    assert torch.equal(batch.images.cpu(), feed()(1, 0.0).images)
    assert batch.known("t_index").device.type == "cpu"


@pytest.mark.parametrize("labelled", [True, False])
def test_an_objective_that_wants_the_images_gets_all_of_them(labelled):
    objective, data = SCT(reference="pool", references=8), tiny.dataset()
    config = TrainConfig(batch_size=8)
    Feed(objective, data, config, ALONE, torch.device("cpu"), labelled)
    every = torch.arange(len(data))
    assert torch.equal(objective._pool.images, data.images(every))
    assert bool(objective._pool.rows) == labelled


def test_augmented_images_are_functions_of_seed_step_and_row():
    plain, whole = feed()(3, 0.0), feed(augment=0.9)(3, 0.0)
    parts = [feed(World(rank, 2), augment=0.9)(3, 0.0) for rank in range(2)]
    torch.testing.assert_close(torch.cat([p.images for p in parts]), whole.images)
    told = whole.draw["augment_labels"]
    assert torch.equal(torch.cat([p.draw["augment_labels"] for p in parts]), told)
    assert not torch.equal(feed(augment=0.9)(4, 0.0).draw["augment_labels"], told)
    assert "augment_labels" not in plain.draw
    same = (told == 0).all(1)
    assert torch.equal(whole.images[same], plain.images[same])
    assert torch.equal(whole.draw["noise"], plain.draw["noise"])
