"""Embeddings of noise levels and classes."""

import math

import pytest
import torch

from ctm_fast.models.embeddings import (
    FourierEmbedding,
    PositionalEmbedding,
    class_embedding,
    keep_some_rows,
)

LEVELS = torch.tensor([-1.5, 0.0, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("endpoint", [True, False])
@pytest.mark.parametrize("sin_first", [True, False])
def test_positional(endpoint, sin_first):
    found = PositionalEmbedding(8, endpoint, sin_first)(LEVELS)
    for k in range(4):
        angle = LEVELS * 10000 ** (-k / (3 if endpoint else 4))
        sin, cos = (k, 4 + k) if sin_first else (4 + k, k)
        assert torch.allclose(found[:, sin], angle.sin(), atol=1e-6)
        assert torch.allclose(found[:, cos], angle.cos(), atol=1e-6)


def test_fourier():
    layer = FourierEmbedding(6, scale=16.0)
    layer.freqs.copy_(torch.tensor([0.5, -3.0, 20.0]))
    angles = 2 * math.pi * LEVELS[:, None] * layer.freqs.double()
    found = layer(LEVELS)
    assert torch.allclose(found, torch.cat([angles.sin(), angles.cos()], 1), atol=2e-5)
    assert list(layer.state_dict()) == ["freqs"]


@pytest.mark.parametrize("make", [lambda: PositionalEmbedding(8, True, True),
                                  lambda: FourierEmbedding(8, 16.0)])  # fmt: skip
def test_frequencies_stay_float32(make):
    layer = make()
    if isinstance(layer, FourierEmbedding):
        layer.freqs.copy_(torch.tensor([1.01, 2.02, 3.03, 40.04]))
    before = layer(LEVELS.float())
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        layer.to(dtype)
        assert torch.equal(layer(LEVELS.float()), before)


def test_class_rows_of_numbers_and_of_weights():
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 2])
    rows = class_embedding(labels, table)
    assert torch.equal(rows, table.t()[labels])
    assert torch.equal(class_embedding(torch.eye(3)[labels], table), rows)


def test_label_dropout_zeroes_whole_rows():
    torch.manual_seed(0)
    rows = keep_some_rows(torch.ones(2000, 3), 0.25)
    assert set(rows.sum(1).tolist()) == {0.0, 3.0}
    assert abs((rows[:, 0] == 0).double().mean().item() - 0.25) < 0.04
