"""The jump G = P x + Q F: the boundary, the two parametrisations, dtypes and derivatives."""

import pytest
import torch

from ctm_fast.kernels import jump

BACKENDS = ["reference", "torch"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_the_ctm_parametrisation(backend: str) -> None:
    """G = s/t x + (1 - s/t) (c_skip x + c_out F), CTM Eq. 9 with EDM's inner network."""
    (x, F, *_), _ = jump.example(shape=(3, 2, 4, 4), dtype=torch.float64, network=torch.float64)
    t = torch.tensor([80.0, 2.0, 0.5], dtype=torch.float64)
    s = torch.tensor([10.0, 0.002, 0.5], dtype=torch.float64)
    total = t**2 + 0.25
    c_skip, c_out = 0.25 / total, 0.5 * t / total.sqrt()
    ratio = s / t
    result = jump(x, F, ratio + (1 - ratio) * c_skip, (1 - ratio) * c_out, backend=backend)
    wide = (3, 1, 1, 1)
    denoised = c_skip.view(wide) * x + c_out.view(wide) * F
    expected = ratio.view(wide) * x + (1 - ratio.view(wide)) * denoised
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(result[2], x[2]), "a jump from t to t is the identity"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("state", [torch.float32, torch.float64])
@pytest.mark.parametrize("network", [torch.float16, torch.bfloat16, torch.float32])
def test_result_has_the_dtype_of_the_state(
    backend: str, state: torch.dtype, network: torch.dtype
) -> None:
    args, _ = jump.example(shape=(2, 3, 4, 4), dtype=state, network=network)
    assert jump(*args, backend=backend).dtype == state


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_and_second_derivatives(backend: str) -> None:
    args, _ = jump.example(shape=(2, 3), dtype=torch.float64, network=torch.float64)
    inputs = tuple(a.requires_grad_() for a in args)
    assert torch.autograd.gradcheck(lambda *a: jump(*a, backend=backend), inputs)
    assert torch.autograd.gradgradcheck(lambda *a: jump(*a, backend=backend), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_mode(backend: str) -> None:
    (x, F, P, Q), _ = jump.example(shape=(2, 3))
    _, tangent = torch.func.jvp(lambda v: jump(x, v, P, Q, backend=backend), (F,), (x,))
    torch.testing.assert_close(tangent, Q[:, None] * x)


def test_gradient_of_a_half_precision_network_output_is_half() -> None:
    (x, F, P, Q), _ = jump.example(shape=(2, 3, 4, 4), network=torch.bfloat16)
    F.requires_grad_()
    jump(x, F, P, Q).sum().backward()
    assert F.grad.dtype == torch.bfloat16
    assert torch.equal(F.grad, Q.view(2, 1, 1, 1).expand_as(F).bfloat16())


def test_wrong_arguments_are_named() -> None:
    (x, F, P, Q), _ = jump.example(shape=(2, 3, 4, 4))
    for message, args in {
        r"F is torch.float32 of shape \(2, 3, 4, 2\)": (x, F[..., :2], P, Q),
        r"P is torch.float64 of shape \(2,\); it must be torch.float32": (x, F, P.double(), Q),
        r"Q is torch.float32 of shape \(1,\)": (x, F, P, Q[:1]),
        "x is torch.float16": (x.half(), F, P, Q),
    }.items():
        with pytest.raises(ValueError, match=message):
            jump(*args)
