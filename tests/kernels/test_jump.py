"""The jump G = P x + Q F: the boundary, the two parametrisations, dtypes and derivatives."""

import pytest
import torch

from ctm_fast.kernels import BackendError, _native, jump

needs_native = pytest.mark.skipif(_native.ABSENT is not None, reason=str(_native.ABSENT))
PLAIN = ["reference", "torch"]
BACKENDS = [*PLAIN, pytest.param("native", marks=needs_native)]


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
def test_first_derivatives(backend: str) -> None:
    for shape in ((2, 3), (4,), (2, 2, 2, 1)):
        args, _ = jump.example(shape=shape, dtype=torch.float64, network=torch.float64)
        inputs = tuple(a.requires_grad_() for a in args)
        assert torch.autograd.gradcheck(lambda *a: jump(*a, backend=backend), inputs)


@pytest.mark.parametrize("backend", PLAIN)
def test_second_derivatives(backend: str) -> None:
    args, _ = jump.example(shape=(2, 3), dtype=torch.float64, network=torch.float64)
    inputs = tuple(a.requires_grad_() for a in args)
    assert torch.autograd.gradgradcheck(lambda *a: jump(*a, backend=backend), inputs)


@needs_native
def test_native_refuses_second_derivatives() -> None:
    (x, F, P, Q), _ = jump.example(shape=(2, 3))
    jumped = jump(x, F.requires_grad_(), P, Q, backend="native")
    (first,) = torch.autograd.grad(jumped.square().sum(), F, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivatives only.*use_backend\('reference'\)"):
        first.sum().backward()


@pytest.mark.parametrize("backend", PLAIN)
def test_forward_mode(backend: str) -> None:
    (x, F, P, Q), _ = jump.example(shape=(2, 3))
    _, tangent = torch.func.jvp(lambda v: jump(x, v, P, Q, backend=backend), (F,), (x,))
    torch.testing.assert_close(tangent, Q[:, None] * x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state", [torch.float32, torch.float64])
def test_gradient_of_a_half_precision_network_output_is_half(
    backend: str, half: torch.dtype, state: torch.dtype
) -> None:
    (x, F, P, Q), _ = jump.example(shape=(2, 3, 4, 4), network=half, dtype=state)
    F.requires_grad_()
    # The gradient of a sum is one number broadcast over all pixels.
    jump(x, F, P, Q, backend=backend).sum().backward()
    assert F.grad.dtype == half
    assert torch.equal(F.grad, Q.view(2, 1, 1, 1).expand_as(F).to(half))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 1), (1, 3), (0, 2)])
def test_only_the_gradients_that_are_wanted(
    backend: str, wanted: tuple[int, ...], poisoned_memory: None
) -> None:
    args, _ = jump.example(shape=(3, 2, 5, 5), channels_last=True)
    leaves = [a.clone().requires_grad_(i in wanted) for i, a in enumerate(args)]
    jump(*leaves, backend=backend).square().sum().backward()
    every = [a.clone().requires_grad_() for a in args]
    jump(*every, backend="reference").square().sum().backward()
    for i, (leaf, other) in enumerate(zip(leaves, every)):
        assert (leaf.grad is None) == (i not in wanted)
        if i in wanted:
            torch.testing.assert_close(leaf.grad, other.grad)


@needs_native
@pytest.mark.parametrize("learned", [False, True])
def test_images_are_kept_only_for_the_gradient_of_a_factor(learned: bool) -> None:
    (x, F, P, Q), _ = jump.example(shape=(2, 3, 4, 4))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        jump(x, F.requires_grad_(), P, Q.requires_grad_(learned), backend="native")
    assert sum(t.shape == F.shape for t in kept) == learned


@needs_native
@pytest.mark.parametrize("network", [torch.float32, torch.bfloat16])
def test_samples_do_not_depend_on_their_batch_or_on_threads(
    network: torch.dtype, threads: None
) -> None:
    args, _ = jump.example(shape=(3, 3, 90, 91), network=network)

    def run(*values: torch.Tensor) -> list[torch.Tensor]:
        x, F, P, Q = (v.detach().clone() for v in values)
        jumped = jump(x.requires_grad_(), F.requires_grad_(), P, Q, backend="native")
        jumped.square().sum().backward()
        return [jumped.detach(), x.grad, F.grad]

    torch.set_num_threads(1)
    whole, alone = run(*args), run(*(a[1:2] for a in args))
    assert all(torch.equal(one, many[1:2]) for one, many in zip(alone, whole, strict=True))
    for count in (2, 3):
        torch.set_num_threads(count)
        assert all(torch.equal(a, b) for a, b in zip(run(*args), whole, strict=True))


@needs_native
def test_conversions_are_those_of_torch() -> None:
    """Also from float64, which PyTorch rounds by way of float32."""
    (x, _, P, Q), _ = jump.example(shape=(1, 1 << 14), dtype=torch.float64)
    Q = torch.ones_like(Q)
    for half in (torch.float16, torch.bfloat16):
        wide = torch.randn(1, 1 << 14, dtype=torch.float64).to(half)
        read = jump(torch.zeros_like(x), wide, P, Q, backend="native")
        assert torch.equal(read, wide.double())
        F = wide.clone().requires_grad_()
        # Halfway between two halves up to what float32 drops.
        g = wide.double() * (1 + 2.0**-12) + 2.0**-40 * x
        jump(x, F, P, Q, backend="native").backward(g)
        assert torch.equal(F.grad, g.to(half))


@needs_native
def test_reasons_against_the_native_kernels() -> None:
    (x, F, P, Q), _ = jump.example(shape=(2, 3, 4, 4))
    assert jump.choose(x, F, P, Q) == "native"
    mixed = (x, F.contiguous(memory_format=torch.channels_last), P, Q)
    assert "all contiguous or all channels-last" in jump.why_not("native", *mixed)
    assert jump.choose(*mixed) == "torch"
    assert "torch.float64 beside a torch.float32" in jump.why_not("native", x, F.double(), P, Q)
    with pytest.raises(BackendError, match="jump: native needs"):
        jump(*mixed, backend="native")
    with torch.autograd.forward_ad.dual_level():
        assert jump.choose(x, F, P, Q) == "torch"


@needs_native
def test_the_binding_checks_what_it_is_given() -> None:
    one = torch.ones(4).data_ptr()
    forward, backward = _native.module.jump, _native.module.jump_backward
    for call in (forward, backward):
        with pytest.raises(ValueError, match="dtype code 4"):
            call(*[one] * 5, 1, 4, 0, 4, 1)
        with pytest.raises(ValueError, match="do not go with"):
            call(*[one] * 5, 1, 4, 0, 3, 1)
        with pytest.raises(ValueError, match="state must be float32"):
            call(*[one] * 5, 1, 4, 1, 0, 1)
        with pytest.raises(ValueError, match="negative"):
            call(*[one] * 5, 1, -4, 0, 0, 1)
        with pytest.raises(ValueError, match="null address"):
            call(0, *[one] * 4, 1, 4, 0, 0, 1)
        with pytest.raises(ValueError, match="one thread"):
            call(*[one] * 5, 1, 4, 0, 0, 0)


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
