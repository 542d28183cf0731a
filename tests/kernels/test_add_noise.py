"""Added noise: the formula, its place in front of a network call, switched-off gradients."""

import pytest
import torch

from ctm_fast.kernels import BackendError, _native, add_noise, heun_correct

needs_native = pytest.mark.skipif(_native.ABSENT is not None, reason=str(_native.ABSENT))
BACKENDS = ["reference", pytest.param("native", marks=needs_native)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_of_the_level_reaches_the_network_with_unit_variance(backend: str) -> None:
    """For images of standard deviation sigma_data; Karras et al. 2022, Section 5."""
    (x, noise, *_), _ = add_noise.example(shape=(3, 20_000))
    level = torch.tensor([0.01, 0.5, 80.0])
    c_in = 1 / (level**2 + 0.25).sqrt()
    noisy, scaled = add_noise(x, noise, level, c_in, backend=backend)
    torch.testing.assert_close(noisy.std(1), (level**2 + 0.25).sqrt(), rtol=0.03, atol=0)
    torch.testing.assert_close(scaled.std(1), torch.ones(3), rtol=0.03, atol=0)
    for row in range(3):
        torch.testing.assert_close(noisy[row], x[row] + level[row] * noise[row])


@pytest.mark.parametrize("backend", BACKENDS)
def test_level_zero_keeps_the_images(backend: str) -> None:
    (x, noise, level, c_in), _ = add_noise.example(shape=(4, 3, 5, 7))
    noisy, scaled = add_noise(x, noise, 0 * level, c_in, backend=backend)
    assert torch.equal(noisy, x)
    assert torch.equal(scaled, c_in.view(-1, 1, 1, 1) * x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("state", [torch.float32, torch.float64])
@pytest.mark.parametrize("out", [None, torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(backend: str, state: torch.dtype, out: torch.dtype | None) -> None:
    args, _ = add_noise.example(shape=(2, 3, 4, 4), dtype=state)
    noisy, scaled = add_noise(*args, out_dtype=out, backend=backend)
    assert noisy.dtype == state and scaled.dtype == (out or state)
    same = add_noise(*args, out_dtype=out, backend="reference")
    torch.testing.assert_close((noisy, scaled), same)


@needs_native
def test_is_the_corrector_that_starts_from_the_images() -> None:
    (x, noise, level, c_in), _ = add_noise.example(shape=(2, 3, 33, 33))
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    corrected = heun_correct(x, noise, noise, one, level, zero, c_in, backend="native")
    for found, expected in zip(add_noise(x, noise, level, c_in, backend="native"), corrected):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@needs_native
def test_samples_do_not_depend_on_their_batch_or_on_threads(threads: None) -> None:
    args, kwargs = add_noise.example(shape=(3, 3, 90, 91), out_dtype=torch.bfloat16)
    torch.set_num_threads(1)
    whole = add_noise(*args, **kwargs, backend="native")
    alone = add_noise(*(a[1:2] for a in args), **kwargs, backend="native")
    torch.set_num_threads(2)
    threaded = add_noise(*args, **kwargs, backend="native")
    for one, many, two in zip(alone, whole, threaded):
        assert torch.equal(one, many[1:2]) and torch.equal(many, two)


@needs_native
def test_reasons_against_the_native_kernels() -> None:
    (x, noise, level, c_in), _ = add_noise.example(shape=(2, 3, 4, 4))
    assert add_noise.choose(x, noise, level, c_in) == "native"
    other = noise.contiguous(memory_format=torch.channels_last)
    assert "all contiguous or all channels-last" in add_noise.why_not(
        "native", x, other, level, c_in
    )
    assert "torch.float64 beside" in add_noise.why_not("native", x, noise.double(), level, c_in)
    assert "torch.float64 beside" in add_noise.why_not(
        "native", x, noise, level, c_in, out_dtype=torch.float64
    )
    level.requires_grad_()
    assert "no gradient" in add_noise.why_not("native", x, noise, level, c_in)
    with torch.no_grad():
        assert add_noise.why_not("native", x, noise, level, c_in) is None


def test_auto_takes_the_reference_where_a_gradient_is_wanted() -> None:
    (x, noise, level, c_in), _ = add_noise.example(shape=(2, 3))
    noisy, scaled = add_noise(x, noise, level.requires_grad_(), c_in)
    (noisy.sum() + scaled.sum()).backward()
    torch.testing.assert_close(level.grad, ((1 + c_in[:, None]) * noise).sum(1))


def test_wrong_arguments_are_named() -> None:
    (x, noise, level, c_in), _ = add_noise.example(shape=(2, 3, 4, 4))
    for message, args in {
        r"noise is torch.float32 of shape \(1, 3, 4, 4\)": (x, noise[:1], level, c_in),
        "noise is torch.int64": (x, noise.long(), level, c_in),
        r"level is torch.float32 of shape \(1,\)": (x, noise, level[:1], c_in),
        r"c_in is torch.float64 of shape \(2,\); it must be torch.float32": (
            *(x, noise, level),
            c_in.double(),
        ),
        "x is torch.float16": (x.half(), noise, level, c_in),
    }.items():
        with pytest.raises(ValueError, match=message):
            add_noise(*args)
    with pytest.raises(ValueError, match=r"out_dtype is torch\.int32"):
        add_noise(x, noise, level, c_in, out_dtype=torch.int32)


@pytest.mark.gpu
def test_native_cuda_has_a_float32_state_only() -> None:
    args, _ = add_noise.example(shape=(2, 3, 5, 5), device="cuda")
    found = add_noise(*args, out_dtype=torch.bfloat16, backend="native")
    torch.testing.assert_close(
        found, add_noise(*args, out_dtype=torch.bfloat16, backend="reference")
    )
    with pytest.raises(BackendError, match="float32 state only on CUDA"):
        add_noise(*(a.double() for a in args), backend="native")
