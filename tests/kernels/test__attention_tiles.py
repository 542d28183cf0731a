"""Attention on matrix tiles: values against float64, threads, what takes the ordinary way."""

import pytest
import torch

from ctm_fast.kernels import _native, attention, use_backend
from ctm_fast.kernels._attention_tiles import tiled_attention
from ctm_fast.kernels._tiles import ABSENT
from tests.tolerance import assert_accurate

pytestmark = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
# batch, heads, width of a head, (H, W)
SIZES = [
    (2, 3, 32, (4, 8)),
    (1, 1, 64, (8, 8)),
    (3, 2, 96, (8, 12)),
    (1, 1, 256, (16, 16)),
    (2, 2, 64, (32, 32)),
]


def packed(batch, heads, width, size, scale=1.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(batch, 3 * heads * width, *size, generator=generator) * scale
    return qkv.bfloat16().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scale", [0.1, 1.5, 6.0])
@pytest.mark.parametrize(("batch", "heads", "width", "size"), SIZES)
def test_values(batch, heads, width, size, scale, poisoned_memory):
    qkv = packed(batch, heads, width, size, scale)
    found = tiled_attention(qkv, heads)
    exact = attention(qkv.double(), heads, backend="reference")
    assert_accurate(found, attention(qkv, heads, backend="torch"), exact)
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == qkv.dtype


def test_weights_add_up_to_one():
    qkv = packed(1, 2, 64, (16, 16), 3.0)
    qkv[:, 2 * 128 :] = 1
    torch.testing.assert_close(
        tiled_attention(qkv, 2), torch.ones_like(qkv[:, :128]), rtol=0.01, atol=0
    )


def test_a_query_finds_its_key():
    """Keys that are unlike each other: every pixel gets the value of the one that it looks at."""
    pixels, width = 64, 64
    order = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))
    q, k = 40 * torch.eye(pixels)[order], torch.eye(pixels) * 40
    v = torch.arange(pixels * width).reshape(pixels, width) % 251
    qkv = torch.cat([q, k, v.float()], 1).bfloat16().view(1, 8, 8, 3 * width).permute(0, 3, 1, 2)
    found = tiled_attention(qkv, 1).permute(0, 2, 3, 1).reshape(pixels, width)
    assert torch.equal(found, v[order].bfloat16())


def test_threads_change_nothing(threads):
    qkv, found = packed(2, 3, 64, (16, 16)), []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        found.append(tiled_attention(qkv, 3))
    assert all(torch.equal(found[0], other) for other in found)


def test_what_is_not_finite_stays_in_its_image_and_head():
    qkv = packed(2, 2, 32, (8, 8))
    qkv[0, 64 + 32 + 3, 2, 2] = float("nan")  # a key of image 0, head 1
    found = tiled_attention(qkv, 2)
    assert found[0, 32:].isnan().all()
    assert found[0, :32].isfinite().all() and found[1].isfinite().all()


def test_auto_takes_it_and_names_do_not(monkeypatch):
    qkv, calls = packed(1, 1, 32, (8, 8)), []
    monkeypatch.setattr(attention, "quick", lambda *args: calls.append(args) or "tiles")
    assert attention(qkv, 1) == "tiles"
    for backend in ("torch", "reference"):
        assert isinstance(attention(qkv, 1, backend=backend), torch.Tensor)
        with use_backend(backend):
            assert isinstance(attention(qkv, 1), torch.Tensor)
    assert len(calls) == 1


def test_the_ordinary_way():
    qkv = packed(1, 2, 32, (8, 8))
    assert tiled_attention(qkv, 2) is not None
    assert tiled_attention(qkv, 2, "edm") is None
    assert tiled_attention(qkv.float(), 2) is None
    assert tiled_attention(qkv.contiguous(), 2) is None
    assert tiled_attention(qkv[..., :7], 2) is None
    assert tiled_attention(qkv[:0], 2) is None
    assert tiled_attention(qkv, 3) is None
    assert tiled_attention(qkv, 0) is None
    assert tiled_attention(qkv, 4) is None, "heads of 16 channels"
    wanting = qkv.clone().requires_grad_()
    assert tiled_attention(wanting, 2) is None
    attention(wanting, 2).sum().backward()
    assert wanting.grad is not None
    with torch.no_grad():
        assert tiled_attention(wanting, 2) is not None
    with torch._subclasses.FakeTensorMode() as mode:
        assert tiled_attention(mode.from_tensor(qkv), 2) is None


def test_the_compiled_part_checks_addresses_and_sizes():
    sizes = (1, 32, 1, 32)
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="null"):
            _native.module.attention(*wrong, *sizes, 1)
    with pytest.raises(ValueError, match="tiles"):
        _native.module.attention(1, 1, 1, 33, 1, 32, 1)
    with pytest.raises(ValueError, match="overflow"):
        _native.module.attention(1, 1, 2**40, 2**20, 32, 32, 1)
    with pytest.raises(ValueError, match="thread"):
        _native.module.attention(1, 1, *sizes, 0)
