"""The elementwise Triton kernels: interpreted on small odd shapes, compiled for the real ones."""

from typing import Any

import pytest
import torch

from ctm_fast.kernels import OPS, _triton, heun_correct, heun_predict, jump
from ctm_fast.kernels._pointwise_triton import _plan
from ctm_fast.kernels._triton import Launch, recorded
from tests.kernels.aot import compiled
from tests.tolerance import assert_accurate

from .contract import gradients, in_float64, tensors

NAMES = ["heun_predict", "heun_correct", "add_noise", "jump"]
DEVICES = [
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(not _triton.INTERPRETED, reason="runs in the interpreter"),
    ),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
on_devices = pytest.mark.parametrize("device", DEVICES)


def on(device: str, values: tuple) -> list[Any]:
    return [v.to(device) if isinstance(v, torch.Tensor) else v for v in values]


@on_devices
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "shape",
    [(3, 3, 5, 7), (1, 3, 32, 33), (2, 8, 8, 8), (2, 1031), (5,), (1, 1), (0, 3, 2, 2), (2, 0)],
    ids=str,
)
def test_values_and_gradients(
    name: str, shape: tuple[int, ...], device: str, poisoned_memory: None
) -> None:
    op = OPS[name]
    for network in (torch.float32, torch.float16):
        key = "out_dtype" if name == "add_noise" else "network"
        args, kwargs = op.example(shape=shape, device=device, **{key: network})
        exact = in_float64(args, kwargs)
        fast = tensors(op(*args, **kwargs, backend="triton"))
        plain = tensors(op.reference(*args, **kwargs))
        truth = tensors(op.reference(*exact[0], **exact[1]))
        if op.differentiable:
            fast += gradients(lambda *a: op(*a, backend="triton"), args, kwargs)[1]
            plain += gradients(op.reference, args, kwargs)[1]
            truth += gradients(op.reference, *exact)[1]
        for one, same, right in zip(fast, plain, truth, strict=True):
            assert_accurate(one, same, right)


@on_devices
@pytest.mark.parametrize("network", [torch.float32, torch.float16])
def test_samples_that_are_off_keep_their_state(network: torch.dtype, device: str) -> None:
    case = dict(shape=(4, 3, 9, 21), network=network)
    (x, F1, F2, *factors), _ = heun_correct.example(**case)
    x[1, 0, 0, :3] = torch.tensor([-0.0, 1e-42, 3.4e38])
    F1[1], F2[3], F2[1] = float("nan"), float("inf"), float("nan")
    active = torch.tensor([True, False, True, False])
    x, F1, F2, active, *factors = on(device, (x, F1, F2, active, *factors))
    x_next, scaled = heun_correct(x, F1, F2, *factors, active, backend="triton")
    for off in (1, 3):
        assert torch.equal(x_next[off].view(torch.int32), x[off].view(torch.int32))
        assert torch.equal(scaled[off], (factors[3][off] * x[off]).to(network))
    assert x_next[[0, 2]].isfinite().all() and not torch.equal(x_next[0], x[0])
    predicted = heun_predict(x, F1, *factors[:2], factors[3], active, backend="triton")
    assert torch.equal(predicted[1], (factors[3][1] * x[1]).to(network))
    assert predicted[0].isfinite().all()


@on_devices
@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_depend_on_their_batch(name: str, device: str) -> None:
    args, kwargs = OPS[name].example(shape=(3, 3, 16, 17), device=device)
    whole = tensors(OPS[name](*args, **kwargs, backend="triton"))
    alone = tensors(OPS[name](*(a[1:2] for a in args), **kwargs, backend="triton"))
    assert all(torch.equal(a[1:2], b) for a, b in zip(whole, alone, strict=True))


@on_devices
def test_addresses_that_are_not_aligned(device: str) -> None:
    (x, F, P, Q), _ = jump.example(shape=(4, 3, 4, 4), device=device)
    flat = torch.empty(2, x.numel() + 1, device=device)
    shifted = [flat[i, 1:].copy_(v.flatten()).view_as(v) for i, v in enumerate((x, F))]
    torch.testing.assert_close(jump(*shifted, P, Q, backend="triton"), jump.reference(x, F, P, Q))


@on_devices
@pytest.mark.parametrize("wanted", [(0,), (1,), (2, 3), (0, 1)])
def test_only_the_gradients_that_are_wanted(
    wanted: tuple[int, ...], device: str, poisoned_memory: None
) -> None:
    args, _ = jump.example(shape=(3, 2, 5, 5), channels_last=True, device=device)
    leaves = [a.clone().requires_grad_(i in wanted) for i, a in enumerate(args)]
    every = [a.clone().requires_grad_() for a in args]
    # A sum hands back one number broadcast over all pixels.
    jump(*leaves, backend="triton").sum().backward()
    jump(*every, backend="reference").sum().backward()
    for i, (leaf, other) in enumerate(zip(leaves, every)):
        assert (leaf.grad is None) == (i not in wanted)
        if i in wanted:
            torch.testing.assert_close(leaf.grad, other.grad)


@on_devices
def test_second_derivatives_are_refused(device: str) -> None:
    (x, F, P, Q), _ = jump.example(shape=(2, 3), device=device)
    jumped = jump(x, F.requires_grad_(), P, Q, backend="triton")
    (first,) = torch.autograd.grad(jumped.square().sum(), F, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        first.sum().backward()


@on_devices
@pytest.mark.parametrize("name", NAMES)
def test_registration(name: str, device: str) -> None:
    args, kwargs = OPS[name].example(shape=(2, 3, 4, 5), channels_last=True, device=device)
    listed = OPS[name].registered(*args, **kwargs)
    versions = [entry for entry in listed if str(entry[0]).endswith("_triton.default")]
    assert len(versions) == (4 if name == "jump" else 1)
    for op, values in versions:
        torch.library.opcheck(op, values)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_captured_in_a_graph(name: str) -> None:
    args, kwargs = OPS[name].example(shape=(5, 3, 8, 8), device="cuda")
    expected = tensors(OPS[name](*args, **kwargs, backend="triton"))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = tensors(OPS[name](*args, **kwargs, backend="triton"))
    for result in captured:
        result.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_plan_covers_every_element() -> None:
    for size in (1, 2, 127, 128, 129, 511, 512, 513, 3072, 3073, 12288, 2**31 + 5):
        pieces, config = _plan(size)
        block = dict(config.constants)["BLOCK"]
        assert (pieces - 1) * block < size <= pieces * block
        assert block <= 256 * config.num_warps


def kind(launch: Launch) -> tuple[Any, ...]:
    """What of a launch matters to the compiler."""
    args = (a.dtype if isinstance(a, torch.Tensor) else a and a % 16 for a in launch.args)
    return launch.kernel, launch.config, *args


def launches(name: str, **more: Any) -> list[Launch]:
    """One launch of each kind among the shapes of both U-Nets."""
    found: dict[tuple[Any, ...], Launch] = {}
    for case in OPS[name].bench_gpu:
        args, kwargs = OPS[name].example(device="meta", **case, **more)
        with recorded() as all_launches:
            OPS[name].launches(*args, **kwargs)
        found.update({kind(launch): launch for launch in all_launches})
    return list(found.values())


def test_what_is_launched() -> None:
    assert len(launches("heun_predict")) == len(launches("add_noise")) == 3
    assert len(launches("jump")) == 6, "forward and backward, three dtypes"
    (grid,) = {launch.grid for launch in launches("heun_correct")[:1]}
    assert grid == (11 * 3072 // 512,)


@pytest.mark.skipif(_triton.ABSENT is not None, reason=str(_triton.ABSENT))
@pytest.mark.skipif(_triton.INTERPRETED, reason="compiles")
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    ("name", "more"),
    [*((name, {}) for name in NAMES), *((name, {"masked": True}) for name in NAMES[:2])],
    ids=str,
)
def test_compiled_for_the_shapes_of_both_networks(name: str, more: dict, arch: int) -> None:
    for launch in launches(name, **more):
        binary = compiled(launch, arch)
        assert binary.local == 0 and binary.registers <= 48
        assert binary.shared <= 4096
        assert binary.count("LDG", "128") and binary.count("STG", "128")
        narrow = binary.count("STG") - binary.count("STG", "128")
        assert narrow == 0, "every image is written 128 bits at a time"
