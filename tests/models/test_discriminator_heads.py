"""Heads: published shapes, small maps, spectral norm."""

import pytest
import torch
from torch import nn

from ctm_fast.models.discriminator_heads import Head, down_blocks


@pytest.mark.parametrize(
    "channels, size, widths",
    [
        (64, 112, [64, 128, 256, 512]),
        (64, 56, [128, 256, 512]),
        (128, 28, [256, 512]),
        (256, 14, [512]),
    ],
)
def test_published_heads(channels, size, widths) -> None:
    head = Head(channels, size)
    convs = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [*widths, 1]
    assert [c.bias is not None for c in convs] == [True] * len(widths) + [False]
    assert {c.kernel_size for c in convs} == {(4, 4)}
    assert [m.num_features for m in head.modules() if isinstance(m, nn.BatchNorm2d)] == widths
    assert head(torch.randn(2, channels, size, size)).shape == (2, 16)


@pytest.mark.parametrize(
    "size, blocks, logits",
    [
        *((1, 0, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1), (7, 1, 1), (8, 1, 1), (13, 1, 9)),
        *((16, 1, 25), (27, 1, 100), (28, 2, 16), (32, 2, 25), (64, 3, 25), (128, 4, 25)),
    ],
)
def test_small_and_odd_maps(size, blocks, logits) -> None:
    assert down_blocks(size) == blocks
    head = Head(3, size, width=2)
    assert head.size == size
    assert head(torch.randn(3, 3, size, size)).shape == (3, logits)
    assert head(torch.randn(3, 3, size, size + 4)).shape[0] == 3


def test_weights_have_spectral_norm_one() -> None:
    head = Head(6, 14, width=4).eval()
    for conv in (m for m in head.modules() if isinstance(m, nn.Conv2d)):
        norm = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
        torch.testing.assert_close(norm, torch.ones(()), rtol=0.05, atol=0)


def test_train_mode_moves_the_buffers_and_eval_mode_does_not() -> None:
    head, x = Head(3, 14, width=2), torch.randn(4, 3, 14, 14)
    moving = [n for n, _ in head.named_buffers()]
    assert len(moving) == 3 + 2 * 2
    for train in (False, True):
        before = {n: b.clone() for n, b in head.named_buffers()}
        head.train(train)(x)
        moved = [n for n, b in head.named_buffers() if not torch.equal(b, before[n])]
        assert bool(moved) == train
    assert any("running_mean" in n for n in moved) and any("_u" in n for n in moved)
