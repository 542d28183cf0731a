"""Reference sets: which images, and that the split of a batch does not matter."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import SCT, Models
from ctm_fast.losses.references import Pool, by_class, check_classes, gathered, others_of_batch
from ctm_fast.rng import stream
from tests.analytic import ConstantNet

from .tools import drawn

IMAGES = torch.randn(8, 1, 2, 2, generator=stream(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
STUDENT = Denoiser(ConstantNet(0.25), kind="consistency")
MINIBATCHES = (
    ("all", None, SCT()),
    ("class", LABELS, SCT()),
    ("some", None, SCT(references=5)),
)


def test_a_process_alone_has_the_whole_batch() -> None:
    everyone, first = gathered(IMAGES)
    assert everyone is IMAGES
    assert first == 0


def _rank(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mine = IMAGES[4 * rank : 4 * rank + 4].contiguous(memory_format=torch.channels_last)
    everyone, first = gathered(mine)
    assert torch.equal(everyone, IMAGES)
    assert first == 4 * rank
    for name, labels, objective in MINIBATCHES:
        share = drawn(objective, IMAGES, labels).slice(4 * rank, 4 * rank + 4)
        objective.prepare(share, Models(STUDENT))
        torch.save(share.draw["x_r"], f"{folder}/{name}-{rank}")
    dist.destroy_process_group()
    Path(folder, str(rank)).touch()


def test_processes_refer_to_the_batch_of_all(tmp_path: Path) -> None:
    mp.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    assert {p.name for p in tmp_path.iterdir()} >= {"0", "1"}
    # What SCT makes of them is what one process makes of the whole batch.
    for name, labels, objective in MINIBATCHES:
        batch = drawn(objective, IMAGES, labels)
        objective.prepare(batch, Models(STUDENT))
        split = torch.cat([torch.load(tmp_path / f"{name}-{rank}") for rank in (0, 1)])
        torch.testing.assert_close(split, batch.draw["x_r"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 8, 20])
@pytest.mark.parametrize("labelled", [True, False])
def test_others_are_the_next_ones_whatever_the_split(size: int, labelled: bool) -> None:
    labels = LABELS if labelled else None
    whole = others_of_batch(labels, labels, 0, 8, 8, size)
    for i in range(8):
        following = [(i + k) % 8 for k in range(1, min(size, 8))]
        wanted = {j for j in following if not labelled or LABELS[j] == LABELS[i]}
        assert set(whole[i].nonzero().flatten().tolist()) == wanted
    parts = [
        others_of_batch(labels[a : a + 2] if labelled else None, labels, a, 2, 8, size)
        for a in range(0, 8, 2)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_a_pool_draws_by_seed_and_class_alone() -> None:
    pool = Pool(IMAGES, LABELS)
    first = pool.drawn(5, 77, 1)
    pool.drawn(3, 78, 0)
    assert torch.equal(pool.drawn(5, 77, 1), first)
    assert not torch.equal(pool.drawn(5, 78, 1), first)
    assert pool.drawn(0, 1, None).shape == (0, 1, 2, 2)
    of_class = IMAGES[LABELS == 1]
    for image in first:
        assert any(torch.equal(image, other) for other in of_class)
    assert torch.equal(pool.of_class(1), of_class)
    assert torch.equal(pool.of_class(None), IMAGES)
    # All images are drawn equally often.
    many = Pool(torch.arange(4.0).reshape(4, 1, 1, 1)).drawn(40_000, 5, None)
    shares = torch.bincount(many.flatten().long()) / 40_000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.01, rtol=0)


def test_groups_cover_the_batch() -> None:
    groups = dict(by_class(LABELS, 8))
    assert {c: rows.tolist() for c, rows in groups.items()} == {
        0: [0, 3, 6, 7],
        1: [1, 4],
        2: [2, 5],
    }
    ((label, rows),) = by_class(None, 8)
    assert label is None
    assert rows.tolist() == list(range(8))


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"no reference image of class 3; there are \[0, 1, 2\]"):
        Pool(IMAGES, LABELS).drawn(2, 0, 3)
    with pytest.raises(ValueError, match="no reference image of class 0; there are"):
        Pool(IMAGES).of_class(0)
    with pytest.raises(ValueError, match="floating point and not empty"):
        Pool(IMAGES[:0])
    with pytest.raises(ValueError, match="uint8"):
        Pool((IMAGES > 0).to(torch.uint8))
    with pytest.raises(ValueError, match="labels for 8 reference images"):
        Pool(IMAGES, LABELS[:3])
    with pytest.raises(ValueError, match="one whole number per image"):
        check_classes(torch.ones(4, 3))
    with pytest.raises(ValueError, match="reference='none' needs none"):
        list(by_class(torch.ones(4), 4))
