"""Levels of encoder and decoder: which blocks there are, and in which order."""

import dataclasses

import pytest
import torch

from ctm_fast.models import net_from_config
from ctm_fast.models.blocks import ConvResample, ResBlock
from ctm_fast.models.levels import blocks_of, decoder, encoder, levels
from tests.models.test_blocks import STYLE
from tests.models.tiny import ADM, SONG

CONFIG = dataclasses.replace(SONG, channel_mult=(1, 2, 2), num_blocks=2, attn_resolutions=(4,))


def names(side):
    return {size: list(level) for size, level in levels(side)}


def test_blocks_by_level():
    enc, skips = encoder(CONFIG, STYLE, 8)
    assert names(enc) == {
        "8x8": ["block0", "block1"],
        "4x4": ["down", "block0", "block1"],
        "2x2": ["down", "block0", "block1"],
    }
    assert skips == [8, 16, 16, 16, 32, 32, 32, 32, 32]
    dec = decoder(CONFIG, STYLE, skips, False, True)
    assert names(dec) == {
        "2x2": ["in0", "in1", "block0", "block1", "block2"],
        "4x4": ["up", "block0", "block1", "block2"],
        "8x8": ["up", "block0", "block1", "block2"],
    }
    assert len(skips) == 9
    assert len(blocks_of(enc)) == 8 and len(blocks_of(dec)) == 13


@pytest.mark.parametrize(("everywhere", "bottleneck"), [(False, True), (True, False)])
def test_where_attention_is(everywhere, bottleneck):
    enc, skips = encoder(CONFIG, STYLE, 8)
    dec = decoder(CONFIG, STYLE, skips, everywhere, bottleneck)
    attends = lambda level: [n for n, block in level.items() if block.num_heads]  # noqa: E731
    assert attends(enc["8x8"]) == [] and attends(enc["4x4"]) == ["block0", "block1"]
    last = ["block0", "block1", "block2"] if everywhere else ["block2"]
    assert attends(dec["4x4"]) == last and attends(dec["8x8"]) == []
    assert attends(dec["2x2"]) == (["in0"] if bottleneck else [])


def test_convolutions_that_resample_are_no_residual_blocks():
    style = dataclasses.replace(STYLE, conv_resampling=True)
    enc, skips = encoder(CONFIG, style, 8)
    dec = decoder(CONFIG, style, skips, False, True)
    assert skips == encoder(CONFIG, STYLE, 8)[1]
    assert isinstance(enc["4x4"]["down"], ConvResample) and enc["4x4"]["down"].resample is None
    assert isinstance(dec["4x4"]["up"], ConvResample) and dec["4x4"]["up"].resample.up
    blocks = [*blocks_of(enc), *blocks_of(dec)]
    assert len(blocks) == 21 - 4 and all(isinstance(block, ResBlock) for block in blocks)


def test_a_kept_modulation_leaves_them_out():
    net = net_from_config(dataclasses.replace(ADM, resampling="conv", label_dim=0)).eval()
    level, x = torch.tensor([0.5, 2.0]), torch.randn(2, 2, 8, 8)
    told = net.modulation(level)
    widths = [b.affine.out_features for b in (*blocks_of(net.enc), *blocks_of(net.dec))]
    assert told.shape == (2, sum(widths))
    assert torch.allclose(net(x, modulation=told), net(x, level))
