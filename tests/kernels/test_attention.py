"""Attention: values and gradients against float64, the three layouts, memory order, wrong use."""

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ctm_fast.kernels import BackendError, attention, use_backend
from ctm_fast.kernels._attention_triton import LAYOUTS
from ctm_fast.models.key_layouts import LAYOUTS as CHECKPOINTS
from tests.tolerance import assert_accurate

FILE = sys.modules["ctm_fast.kernels.attention"]
BACKENDS = ["torch", "reference"]
BFLOAT, HALF = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
CASES: list[dict[str, Any]] = [
    *({**case, "seed": 2} for case in attention.cases),
    {"shape": (1, 192, 16, 16), **BFLOAT},
    {"shape": (2, 768, 8, 8), **HALF},
    {"shape": (2, 288, 7, 7), "heads": 3, "channels_last": False, **BFLOAT},
    {"shape": (2, 144, 8, 8), "heads": 3, "layout": "edm"},
    {"shape": (1, 144, 11, 5), "heads": 2, "layout": "adm-legacy", **BFLOAT},
    {"shape": (5, 9, 2, 1), "heads": 3},
]


def run(
    call: Any, qkv: torch.Tensor, *rest: Any, dout: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result and qkv's gradient of one weighted sum of it; `dout` are the weights."""
    leaf = qkv.detach().requires_grad_()
    out = call(leaf, *rest)
    if dout is None:
        generator = torch.Generator().manual_seed(7)
        dout = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    out.backward(dout.to(out.device, out.dtype))
    return out.detach(), leaf.grad


def on(backend: str) -> Any:
    return lambda *args: attention(*args, backend=backend)


def assert_like_reference(backend: str, args: tuple, **options: Any) -> None:
    """Values and gradients of a backend meet the accuracy rule."""
    found = run(on(backend), *args, **options)
    plain = run(attention.reference, *args, **options)
    exact = run(attention.reference, args[0].double(), *args[1:], **options)
    for one, same, truth in zip(found, plain, exact, strict=True):
        assert_accurate(one, same, truth)
    assert found[0].stride() == plain[0].stride() or found[0].numel() < 2


@pytest.mark.parametrize("index", range(len(CASES)))
def test_values_and_gradients(index: int, poisoned_memory: None) -> None:
    args, _ = attention.example(**CASES[index])
    assert_like_reference("torch", args)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_reference_is_the_formula(layout: str, channels_last: bool) -> None:
    heads, width, pixels = 2, 3, 12
    (qkv, *_), _ = attention.example(
        shape=(2, 18, 3, 4), heads=heads, dtype=torch.float64, channels_last=channels_last
    )
    places = {"adm": "nphdl", "adm-legacy": "nhpdl", "edm": "nhdpl"}
    sizes = {"p": 3, "h": heads, "d": width}
    split = qkv.reshape(2, *(sizes[axis] for axis in places[layout][1:4]), pixels)
    q, k, v = torch.einsum(f"{places[layout]}->pnhld", split)
    expected = torch.zeros(2, heads, pixels, width, dtype=torch.float64)
    for n in range(2):
        for h in range(heads):
            for i in range(pixels):
                powers = ((k[n, h] * q[n, h, i]).sum(1) / width**0.5).exp()
                expected[n, h, i] = (powers[:, None] * v[n, h]).sum(0) / powers.sum()
    for backend in BACKENDS:
        out = attention(qkv, heads, layout, backend=backend)
        assert out.shape == (2, 6, 3, 4)
        seen = out.reshape(2, heads, width, pixels).transpose(2, 3)
        torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reference_is_what_edm_computes(dtype: torch.dtype) -> None:
    """Weights in float32 and rounded, as in Karras et al. 2022 (arXiv:2206.00364), Appendix F."""
    heads, width = 2, 16
    (qkv, *_), _ = attention.example(shape=(2, 3 * heads * width, 4, 4), dtype=dtype)
    x = qkv.contiguous().reshape(2 * heads, width, 3, 16)
    q, k, v = (part.float() for part in x.unbind(2))
    weights = torch.einsum("ncq,nck->nqk", q, k / width**0.5).softmax(2).to(dtype)
    out = torch.einsum("nqk,nck->ncq", weights.double(), v.double()).reshape(2, -1, 4, 4)
    found = attention(qkv, heads, "edm", backend="reference")
    # What remains is the rounding of the result, and of weights at the edge between two values.
    ulp = torch.finfo(dtype).eps
    assert (found - out).abs().max() <= 2 * ulp * out.abs().max()
    assert (found - out).abs().mean() <= ulp * out.abs().mean()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_those_of_the_checkpoints(layout: str) -> None:
    assert set(LAYOUTS) <= set(CHECKPOINTS)
    (qkv, heads, _), _ = attention.example(shape=(2, 36, 3, 3), heads=2)
    ours = CHECKPOINTS[layout].rows_in(qkv.transpose(0, 1), heads).transpose(0, 1)
    for backend in BACKENDS:
        expected = attention(ours.contiguous(), heads, backend=backend)
        found = attention(qkv.contiguous(), heads, layout, backend=backend)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("heads", [1, 2])
def test_reference_has_two_derivatives(heads: int) -> None:
    for layout in LAYOUTS:
        (qkv, *_), _ = attention.example(shape=(2, 12, 2, 2), dtype=torch.float64)
        qkv.requires_grad_()

        def call(x: torch.Tensor, layout: str = layout) -> torch.Tensor:
            return attention(x, heads, layout, backend="reference")

        assert torch.autograd.gradcheck(call, qkv, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(call, qkv)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 6, 1, 1), (1, 6, 5, 1), (0, 6, 2, 2)])
def test_memory_order(backend: str, shape: tuple[int, int, int, int]) -> None:
    """Also where one order is as good as the other, as for a single pixel."""
    for order in (torch.contiguous_format, torch.channels_last):
        qkv = torch.empty(shape, memory_format=order).normal_().requires_grad_()
        smaller = torch.empty((shape[0], 2, *shape[2:]), memory_format=order)
        out = attention(qkv, 2, backend=backend)
        assert out.stride() == smaller.stride()
        out.sum().backward()
        if backend == "torch" and order == torch.channels_last and shape[2:] != (1, 1):
            assert qkv.grad.stride() == qkv.stride()


def strange_views(qkv: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same values in memory that is neither contiguous nor channels-last."""
    batch, channels, height, width = qkv.shape
    views = {
        "channels of more": qkv.new_full((batch, channels + 5, height, width), 9.0),
        "every second pixel": qkv.new_full((batch, channels, height, 2 * width), 9.0),
        "every second channel": qkv.new_full((batch, 2 * channels, height, width), 9.0),
        "columns first": qkv.new_full((batch, channels, width, height), 9.0),
    }
    views["channels of more"] = views["channels of more"].contiguous(
        memory_format=torch.channels_last
    )[:, 2:-3]
    views["every second pixel"] = views["every second pixel"][..., ::2]
    views["every second channel"] = views["every second channel"][:, 1::2]
    views["columns first"] = views["columns first"].transpose(2, 3)
    for view in views.values():
        view.copy_(qkv)
    return views


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides_of_qkv(backend: str) -> None:
    (qkv, *rest), _ = attention.example(shape=(2, 24, 3, 4), heads=2)
    expected = run(on(backend), qkv, *rest)
    for name, view in strange_views(qkv).items():
        for one, other in zip(run(on(backend), view, *rest), expected, strict=True):
            torch.testing.assert_close(one, other, msg=name)
    repeated = qkv[:1].expand(3, -1, -1, -1)
    found = attention(repeated, *rest, backend=backend)
    torch.testing.assert_close(found, attention(repeated.clone(), *rest, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_any_strides_of_the_gradient(backend: str, channels_last: bool) -> None:
    args, _ = attention.example(shape=(2, 24, 3, 4), heads=2, channels_last=channels_last)
    dout = torch.randn(2, 8, 4, 3).transpose(2, 3)
    row = torch.randn(1, 8, 1, 1)
    for odd in (dout, row.expand(2, -1, 3, 4), torch.ones(()).expand(2, 8, 3, 4)):
        _, found = run(on(backend), *args, dout=odd)
        _, expected = run(on(backend), *args, dout=odd.clone())
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_logits(dtype: torch.dtype) -> None:
    """Queries a hundred times as large: the softmax is nearly a choice of one pixel."""
    (qkv, heads, layout), _ = attention.example(shape=(2, 48, 5, 5), dtype=dtype, scale=1.0)
    qkv[:, :16] *= 100
    args = (qkv, heads, layout)
    found, plain = run(on("torch"), *args), run(attention.reference, *args)
    exact = run(attention.reference, qkv.double(), heads, layout)
    assert_accurate(found[0], plain[0], exact[0])
    # Rounding the output to qkv's dtype before its gradient is summed up costs SDPA accuracy.
    assert_accurate(found[1], plain[1], exact[1], times=32)


def test_nan_stays_in_its_pixel_and_head() -> None:
    """In the definition. ATen's fused attention on the CPU turns such a row into zeros."""
    (qkv, *rest), _ = attention.example(shape=(3, 24, 3, 3), heads=2)
    qkv[1, 3, 1, 1] = float("nan")  # a query of the first head
    out = attention(qkv, *rest, backend="reference")
    assert out[1, :4, 1, 1].isnan().all()
    out[1, :4, 1, 1] = 0
    assert out.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(backend: str, dtype: torch.dtype) -> None:
    args, _ = attention.example(shape=(2, 24, 3, 3), heads=2, dtype=dtype)
    expected = attention(*args, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(*args, backend=backend)
    assert found.dtype == dtype and torch.equal(found, expected)


def test_torch_copies_nothing_in_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = []
    original = F.scaled_dot_product_attention

    def recording(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = original(q, k, v)
        memory.extend(t.untyped_storage().data_ptr() for t in (q, k, v, out))
        return out

    monkeypatch.setattr(F, "scaled_dot_product_attention", recording)
    (qkv, *rest), _ = attention.example(shape=(2, 96, 4, 4), heads=2)
    out = attention(qkv, *rest, backend="torch")
    assert memory[:3] == [qkv.untyped_storage().data_ptr()] * 3
    assert memory[3] == out.untyped_storage().data_ptr()


def test_sdpa_kernels_by_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FILE._preferred(torch.device("cpu")) is None
    cuda = torch.device("cuda:1")
    monkeypatch.setattr(FILE, "capability", lambda index: (8, 0))
    assert FILE._preferred(cuda) is None, "flash attention first is PyTorch's own order"
    monkeypatch.setattr(FILE, "capability", lambda index: (9, 0))
    order = FILE._preferred(cuda)
    assert order[:2] == [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    assert order[-1] == SDPBackend.MATH
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
        assert FILE._preferred(cuda) == [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_with_preferred_kernels(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    constant = torch.compiler.assume_constant_result(lambda device: order)
    monkeypatch.setattr(FILE, "_preferred", constant)
    args, _ = attention.example(shape=(2, 24, 3, 3), heads=2)
    torch._dynamo.reset()
    compiled = torch.compile(on("torch"), fullgraph=True, backend="aot_eager")
    before = torch._C._get_sdp_priority_order()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = run(compiled, *args)
    assert torch._C._get_sdp_priority_order() == before
    for one, other in zip(found, run(on("torch"), *args), strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()


def test_reasons_and_choice() -> None:
    (qkv, *rest), _ = attention.example(shape=(2, 24, 3, 3), heads=2)
    assert attention.choose(qkv, *rest) == "torch"
    with pytest.raises(BackendError, match="no native"):
        attention(qkv, *rest, backend="native")
    reason = FILE.unsupported("triton", qkv.double(), *rest)
    assert "torch.float64" in reason
    large, _ = attention.example(shape=(1, 384, 32, 32), heads=2, **HALF, device="meta")
    assert "1024 pixels by 64 channels" in FILE.unsupported("triton", *large)


def test_forward_mode_takes_the_reference() -> None:
    (qkv, *rest), _ = attention.example(shape=(1, 12, 2, 2), dtype=torch.float64)
    tangent = torch.randn_like(qkv)
    _, found = torch.func.jvp(lambda x: attention(x, *rest), (qkv,), (tangent,))
    step = 1e-6 * tangent
    difference = (attention(qkv + step, *rest) - attention(qkv - step, *rest)) / 2e-6
    torch.testing.assert_close(found, difference, rtol=1e-6, atol=1e-8)
    with pytest.raises(BackendError, match="forward-mode"):
        torch.func.jvp(lambda x: attention(x, *rest, backend="torch"), (qkv,), (tangent,))
    with use_backend("torch"):
        assert attention(qkv, *rest).shape == (1, 4, 2, 2)


def test_wrong_arguments_are_named() -> None:
    (qkv, *_), _ = attention.example(shape=(3, 24, 4, 4))
    for message, args in {
        "24 channels do not divide into queries, keys and values of 3 heads": (qkv, 3),
        "24 channels do not divide into queries, keys and values of 0 heads": (qkv, 0),
        "0 channels do not divide": (qkv[:, :0], 1),
        r"qkv is torch.float32 of shape \(3, 24, 4\)": (qkv[..., 0], 2),
        r"qkv is torch.int64 .* \['torch.float32', 'torch.bfloat16'": (qkv.long(), 2),
        r"unknown layout 'ddpm'; choose from \['adm', 'adm-legacy', 'edm'\]": (qkv, 2, "ddpm"),
    }.items():
        with pytest.raises(ValueError, match=message):
            attention(*args)
