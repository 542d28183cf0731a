"""Dropout masks shared between two passes."""

import pytest
import torch
import torch.nn.functional as F

from ctm_fast.models import SongConfig, net_from_config, replayed, shared_dropout


def test_same_seed_same_masks_and_the_random_state_is_back():
    x = torch.ones(4, 8, 3, 3)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    masks = []
    for seed in (1, 1, 2):
        with shared_dropout("cpu", seed):
            masks.append((F.dropout(x, 0.5), F.dropout(x, 0.5)))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)  # the masks must not depend on what was drawn in between
        torch.set_rng_state(before)
    assert torch.equal(masks[0][0], masks[1][0]) and torch.equal(masks[0][1], masks[1][1])
    assert not torch.equal(masks[0][0], masks[2][0])
    assert not torch.equal(masks[0][0], masks[0][1])


def test_state_is_back_after_an_error_and_around_nesting():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), shared_dropout("cpu", 1), shared_dropout("cpu", 2):
        torch.rand(1)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)
    with shared_dropout("cpu", 1):
        first = torch.rand(1)
        with shared_dropout("cpu", 1):
            assert torch.equal(torch.rand(1), first)
        assert not torch.equal(torch.rand(1), first)


def two_passes(device):
    config = SongConfig(
        img_resolution=8, model_channels=16, channel_mult=(1, 2), num_blocks=1,
        attn_resolutions=(), dropout=0.3, label_dim=4, label_dropout=0.5,
    )  # fmt: skip
    net = net_from_config(config).to(device)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
    level, labels = torch.zeros(5, device=device), torch.zeros(5, dtype=torch.int64, device=device)
    outputs = []
    for seed in (3, 3, 4):
        with torch.no_grad(), shared_dropout(device, seed):
            net.dec["8x8"]["block1"].conv1.weight.fill_(0.1)
            net.last_layer.weight.fill_(0.1)
            outputs.append(net(x, level, labels=labels))
    return outputs


def test_network_passes_share_masks():
    first, same, other = two_passes("cpu")
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.gpu
def test_network_passes_share_masks_on_a_gpu():
    before = torch.cuda.get_rng_state()
    first, same, other = two_passes("cuda")
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="meta"), shared_dropout("meta", 0):
        pass


def test_what_is_drawn_inside_is_drawn_again():
    x = torch.ones(4, 8, 3, 3)
    torch.manual_seed(7)
    with replayed("cpu"):
        first = F.dropout(x, 0.5)
    assert torch.equal(F.dropout(x, 0.5), first)
    assert not torch.equal(F.dropout(x, 0.5), first)
    with pytest.raises(RuntimeError), replayed("cpu"):
        first = F.dropout(x, 0.5)
        raise RuntimeError
    assert torch.equal(F.dropout(x, 0.5), first)


@pytest.mark.gpu
def test_masks_are_drawn_again_on_a_gpu():
    x = torch.ones(4, 8, 3, 3, device="cuda")
    with replayed("cuda"):
        first = F.dropout(x, 0.5)
    assert torch.equal(F.dropout(x, 0.5), first)
