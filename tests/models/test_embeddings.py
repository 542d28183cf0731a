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
from ctm_fast.models.layers import Linear

LEVELS = torch.tensor([-1.5, 0.0, 0.3], dtype=torch.float64)


def layers(channels, width=5):
    """Two linear layers in float64, and what they make of rows."""
    generator = torch.Generator().manual_seed(0)
    made = Linear(channels, width).double(), Linear(width, width).double()
    with torch.no_grad():
        for layer in made:
            layer.weight.normal_(generator=generator)
            layer.bias.normal_(generator=generator)

    def apply(rows, after=0):
        silu = torch.nn.functional.silu
        return silu(made[1](silu(made[0](rows))) + after)

    return *made, apply


@pytest.mark.parametrize("endpoint", [True, False])
@pytest.mark.parametrize("sin_first", [True, False])
def test_positional(endpoint, sin_first):
    layer0, layer1, apply = layers(8)
    found = PositionalEmbedding(8, endpoint, sin_first)(LEVELS, layer0, layer1)
    angles = torch.stack([LEVELS * 10000 ** (-k / (3 if endpoint else 4)) for k in range(4)], dim=1)
    waves = [angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()]
    assert torch.allclose(found, apply(torch.cat(waves, 1)), atol=1e-5)


def test_fourier():
    embedding = FourierEmbedding(6, scale=16.0)
    embedding.freqs.copy_(torch.tensor([0.5, -3.0, 20.0]))
    angles = 2 * math.pi * LEVELS[:, None] * embedding.freqs.double()
    layer0, layer1, apply = layers(6)
    found = embedding(LEVELS, layer0, layer1)
    assert torch.allclose(found, apply(torch.cat([angles.sin(), angles.cos()], 1)), atol=1e-4)
    assert list(embedding.state_dict()) == ["freqs"]


def test_labels_before_and_after_the_layers():
    layer0, layer1, apply = layers(8)
    before, after = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    embedding = PositionalEmbedding(8, True, False)
    angles = LEVELS[:, None] * embedding.angular_frequencies().double()
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    found = embedding(LEVELS, layer0, layer1, before, after)
    assert torch.allclose(found, apply(waves + before, after))
    assert torch.allclose(embedding(LEVELS[:1], layer0, layer1, before), apply(waves[:1] + before))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float32])
def test_levels_of_any_dtype(dtype):
    layer0, layer1, _ = layers(8)
    level = torch.tensor([3, 1, 2])
    embedding = PositionalEmbedding(8, False, False)
    found = embedding(level.to(dtype), layer0.float(), layer1.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, embedding(level.float(), layer0, layer1))


@pytest.mark.parametrize("make", [lambda: PositionalEmbedding(8, True, True),
                                  lambda: FourierEmbedding(8, 16.0)])  # fmt: skip
def test_frequencies_stay_float32(make):
    embedding = make()
    if isinstance(embedding, FourierEmbedding):
        embedding.freqs.copy_(torch.tensor([1.01, 2.02, 3.03, 40.04]))
    before = embedding.angular_frequencies().clone()
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        embedding.to(dtype)
        assert torch.equal(embedding.angular_frequencies(), before)


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
