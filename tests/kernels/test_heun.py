"""The Heun updates: the algorithm they stand for, switched-off samples, exact conversions."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ctm_fast.kernels import BackendError, _native, heun_correct, heun_predict

from .contract import DEVICES

CSRC = Path(__file__).resolve().parents[2] / "csrc"
needs_native = pytest.mark.skipif(_native.ABSENT is not None, reason=str(_native.ABSENT))
BACKENDS = ["reference", pytest.param("native", marks=needs_native)]
HALVES = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)


def edm(sigma: torch.Tensor, sigma_data: float = 0.5) -> tuple[torch.Tensor, ...]:
    """c_skip, c_out, c_in of EDM (Karras et al. 2022, Table 1)."""
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()


def network(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(3 * x) + 0.2 * x


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_updates_are_one_heun_step(backend: str) -> None:
    t = torch.tensor([80.0, 3.0, 0.01], dtype=torch.float64)[:, None]
    u = torch.tensor([60.0, 1.0, 0.002], dtype=torch.float64)[:, None]
    x = t * torch.randn(3, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def slope(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        c_skip, c_out, c_in = edm(sigma)
        return (x - (c_skip * x + c_out * network(c_in * x))) / sigma

    h = u - t
    d = slope(x, t)
    expected = x + h / 2 * (d + slope(x + h * d, u))

    def coefficients(sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = sigma**2 + 0.25
        return sigma / total, -0.5 / total.sqrt()

    (a1, b1), (a2, b2) = coefficients(t), coefficients(u)
    alpha, beta = 1 + h * a1, h * b1
    A, B, C = 1 + h / 2 * (a1 + a2 * alpha), h / 2 * (b1 + a2 * beta), h / 2 * b2
    c_in = edm(u)[2].flatten()
    F1 = network(edm(t)[2] * x)
    scaled = heun_predict(x, F1, alpha.flatten(), beta.flatten(), c_in, backend=backend)
    factors = (A.flatten(), B.flatten(), C.flatten(), c_in)
    x_next, again = heun_correct(x, F1, network(scaled), *factors, backend=backend)
    torch.testing.assert_close(x_next, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(again, c_in[:, None] * expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network_dtype", [torch.float32, torch.bfloat16])
def test_samples_that_are_off_keep_their_state(
    backend: str, network_dtype: torch.dtype, device: str
) -> None:
    case = dict(shape=(4, 3, 5, 7), network=network_dtype, masked=True)
    (x, F1, F2, *factors, _), _ = heun_correct.example(**case)
    active = torch.tensor([True, False, True, False])
    x[1, 0, 0, :3] = torch.tensor([-0.0, 1e-42, 3.4e38])
    F1[1], F2[3], F2[1] = float("nan"), float("inf"), float("nan")
    x, F1, F2, active, *factors = (t.to(device) for t in (x, F1, F2, active, *factors))
    x_next, scaled = heun_correct(x, F1, F2, *factors, active, backend=backend)
    for off in (1, 3):
        assert torch.equal(x_next[off].view(torch.int32), x[off].view(torch.int32))
        assert torch.equal(scaled[off], (factors[3][off] * x[off]).to(network_dtype))
    assert x_next[[0, 2]].isfinite().all() and not torch.equal(x_next[0], x[0])
    predicted = heun_predict(x, F1, *factors[:2], factors[3], active, backend=backend)
    assert torch.equal(predicted[1], (factors[3][1] * x[1]).to(network_dtype))


@needs_native
def test_samples_do_not_depend_on_their_batch_or_on_threads(threads: None) -> None:
    args, _ = heun_correct.example(shape=(3, 3, 90, 91), network=torch.bfloat16)
    torch.set_num_threads(1)
    whole = heun_correct(*args, backend="native")
    alone = heun_correct(*(a[1:2] for a in args), backend="native")
    torch.set_num_threads(2)
    threaded = heun_correct(*args, backend="native")
    for one, many, two in zip(alone, whole, threaded):
        assert torch.equal(one, many[1:2]) and torch.equal(many, two)


@needs_native
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_conversions_are_those_of_torch(half: torch.dtype) -> None:
    one, zero = torch.ones(1), torch.zeros(1)
    narrow = HALVES.view(half)[None]
    wide = narrow.float()
    to_float = heun_predict(
        torch.zeros_like(wide), narrow, zero, one, one, out_dtype=torch.float32, backend="native"
    )
    assert torch.equal(to_float.nan_to_num(7.0), wide.nan_to_num(7.0))
    assert torch.equal(to_float.isnan(), wide.isnan())

    steps = torch.tensor([-32768, -4097, -4096, -4095, -1, 0, 1, 4095, 4096, 4097, 32767, 32768])
    near = (wide.view(torch.int32) + steps[:, None].int()).reshape(1, -1).view(torch.float32)
    rounded = heun_predict(near, near, one, zero, one, out_dtype=half, backend="native")
    finite = near.isfinite()
    assert torch.equal(rounded[finite], near.to(half)[finite])
    assert torch.equal(rounded.isnan(), near.isnan() | near.isinf())


@needs_native
def test_reasons_against_the_native_kernels() -> None:
    args, _ = heun_predict.example(shape=(2, 3, 4, 4))
    x, F1, *factors = args
    mixed = (x, F1.contiguous(memory_format=torch.channels_last), *factors)
    assert "all contiguous or all channels-last" in heun_predict.why_not("native", *mixed)
    assert heun_predict.choose(*mixed) == "reference"
    assert "torch.float64" in heun_predict.why_not("native", *args, out_dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        assert "forward-mode" in heun_predict.why_not("native", *args)
        assert heun_predict.choose(*args) == "reference"
    summed = torch.func.vmap(lambda v: heun_predict(v, F1, *factors))(x[None])
    assert torch.allclose(summed[0], heun_predict(*args), atol=1e-5)


def test_wrong_arguments_are_named() -> None:
    (x, F1, F2, A, B, C, c_in), _ = heun_correct.example(shape=(2, 3, 4, 4))
    for message, args in {
        r"F1 is torch.float32 of shape \(1, 3, 4, 4\)": (x, F1[:1], F2, A, B, C, c_in),
        "F2 is torch.float16; it must be torch.float32, like F1": (x, F1, F2.half(), A, B, C, c_in),
        r"C is torch.float32 of shape \(1,\)": (x, F1, F2, A, B, C[:1], c_in),
        r"c_in is torch.float64": (x, F1, F2, A, B, C, c_in.double()),
        r"active is torch.float32 .* torch.bool": (x, F1, F2, A, B, C, c_in, torch.ones(2)),
        "x is torch.bfloat16": (x.bfloat16(), F1, F2, A, B, C, c_in),
    }.items():
        with pytest.raises(ValueError, match=message):
            heun_correct(*args)
    with pytest.raises(ValueError, match=r"out_dtype is torch\.int32"):
        heun_predict(x, F1, A, B, c_in, out_dtype=torch.int32)


@needs_native
def test_the_binding_checks_what_it_is_given() -> None:
    x = torch.ones(4)
    pointers = [x.data_ptr()] * 10
    call = _native.module.heun_step
    with pytest.raises(ValueError, match="dtype code 9"):
        call(*pointers, 1, 4, 0, 9, 0, -1, 1)
    for images in ((3, 0), (0, 3)):
        with pytest.raises(ValueError, match="do not go with"):
            call(*pointers, 1, 4, 0, *images, -1, 1)
    with pytest.raises(ValueError, match="negative"):
        call(*pointers, -1, 4, 0, 0, 0, -1, 1)
    with pytest.raises(ValueError, match="overflow"):
        call(*pointers, 1 << 40, 1 << 40, 0, 0, 0, -1, 1)
    with pytest.raises(ValueError, match="null address"):
        call(0, *pointers[1:], 1, 4, 0, 0, 0, -1, 1)
    with pytest.raises(ValueError, match="one thread"):
        call(*pointers, 1, 4, 0, 0, 0, -1, 0)
    with pytest.raises(ValueError, match="float32"):
        call(*pointers, 1, 4, 3, 3, 3, 0, 0)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_cuda_kernels_compile_without_spills(architecture: str, tmp_path: Path) -> None:
    command = ["nvcc", "-O3", "-std=c++17", f"-arch={architecture}", "-cubin", "-Xptxas", "-v"]
    done = subprocess.run(
        [*command, str(CSRC / "heun_cuda.cu"), "-o", str(tmp_path / "heun.cubin")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    reports = [line for line in done.stderr.splitlines() if "spill stores" in line]
    assert len(reports) == 36, "two updates, packed or not, three dtypes in and out"
    clean = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
    assert all(clean in line for line in reports), done.stderr


@pytest.mark.gpu
def test_one_graph_on_a_side_stream() -> None:
    args, _ = heun_correct.example(shape=(5, 3, 9, 9), network=torch.bfloat16, device="cuda")
    expected = heun_correct(*args, backend="reference")
    if (reason := heun_correct.why_not("native", *args)) is not None:
        pytest.fail(reason)
    heun_correct(*args, backend="native")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = heun_correct(*args, backend="native")
    for result in captured:
        result.zero_()
    graph.replay()
    torch.cuda.synchronize()
    for result, plain in zip(captured, expected):
        torch.testing.assert_close(
            result, plain, rtol=1e-5 if result is captured[0] else 1e-2, atol=1e-4
        )


@pytest.mark.gpu
def test_unaligned_addresses() -> None:
    (x, F1, *factors), _ = heun_predict.example(shape=(4, 3, 4, 4), device="cuda")
    flat = torch.empty(2, x.numel() + 1, device="cuda")
    shifted = [flat[i, 1:].copy_(v.flatten()).view_as(v) for i, v in enumerate((x, F1))]
    result = heun_predict(*shifted, *factors, backend="native")
    torch.testing.assert_close(result, heun_predict(x, F1, *factors, backend="reference"))


def test_native_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "ABSENT", "the native part was not built")
    args, _ = heun_predict.example(shape=(2, 3))
    assert heun_predict.choose(*args) == "reference"
    with pytest.raises(BackendError, match="heun_predict: the native part was not built"):
        heun_predict(*args, backend="native")
