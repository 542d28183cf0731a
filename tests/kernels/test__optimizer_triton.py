"""The optimizer step as Triton kernels: interpreted on small odd sizes, compiled for real ones."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctm_fast.kernels import _triton
from ctm_fast.kernels._optimizer_triton import triton_step
from ctm_fast.kernels._optimizer_weights import PIECE, Step
from ctm_fast.kernels._triton import Launch, recorded
from ctm_fast.kernels.optimizer_step import Rule, Weights, optimizer_step
from tests.kernels.aot import compiled
from tests.kernels.optimizer_cases import SMALL, flat, gradients, rows, run, snapshot, weights
from tests.tolerance import assert_accurate

DEVICES = [
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(not _triton.INTERPRETED, reason="runs in the interpreter"),
    ),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
on_devices = pytest.mark.parametrize("device", DEVICES)
RULES = [Rule(True), Rule(False), Rule(True, 0.0, 0.99, 1e-3), Rule(False, 0.5, 0.6)]


@on_devices
@pytest.mark.parametrize(
    ("rule", "averages"),
    [(RULES[0], 0), (RULES[0], 3), (RULES[1], 1), (RULES[2], 1), (RULES[3], 2)],
)
def test_values(rule: Rule, averages: int, device: str, poisoned_memory: None) -> None:
    for clipped in (False, True):
        norm = torch.tensor(3.0, device=device)
        options: dict[str, Any] = dict(norm=norm, max_norm=2.0, loss_scale=64.0) if clipped else {}
        made = [weights(averages, SMALL, dtype, device) for dtype in (torch.float32,) * 2]
        wide = weights(averages, SMALL, torch.float64, device)
        ours = run(made[0], rule, "triton", steps=8, **options)
        plain = run(made[1], rule, "reference", steps=8, **options)
        exact = run(wide, rule, "reference", steps=8, **options)
        assert torch.equal(ours.steps, exact.steps)
        for one, other, truth in zip(rows(ours), rows(plain), rows(exact), strict=True):
            assert_accurate(one, other, truth)


@on_devices
def test_scalars_after_many_steps(device: str) -> None:
    """Powers are computed on the device: steps up to what float32 counts."""
    counts = [0.0, 4.0, 5.0, 6.0, 999.0, 123456.0, 2.0**24 - 2]
    for rule in RULES[:2]:
        found = []
        for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
            of = weights(0, [(2,)] * len(counts), dtype, device)
            of.steps.copy_(torch.tensor(counts))
            optimizer_step(of, gradients(0, of), rule, 1.0, backend=backend)
            found.append(torch.cat(of.params).double())
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@on_devices
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_norm_that_is_not_finite_changes_nothing(bad: float, device: str) -> None:
    of = run(weights(2, SMALL, device=device), Rule(True), "triton", steps=2)
    before = snapshot(of)
    grads = gradients(9, of)
    grads[2] = torch.full((3,), bad, device=device)
    options = dict(norm=torch.tensor(bad, device=device), max_norm=1.0, backend="triton")
    optimizer_step(of, grads, Rule(True), 0.1, (0.5, 0.9), **options)
    assert all(torch.equal(a, b) for a, b in zip(snapshot(of), before, strict=True))


@on_devices
def test_a_weight_without_gradient_stays_and_its_averages_follow(device: str) -> None:
    of = run(weights(1, SMALL, device=device), Rule(True), "triton", steps=2)
    before = [[t.clone() for t in row] for row in of.rows]
    optimizer_step(of, [None] * len(of), Rule(True), 0.1, (0.0,), backend="triton")
    for i in range(len(of)):
        assert all(torch.equal(of.rows[k][i], before[k][i]) for k in range(3))
        assert torch.equal(of.averages[0][i], before[0][i])
    assert of.steps.tolist() == [2.0] * len(of)


@on_devices
def test_addresses_that_are_not_aligned(device: str) -> None:
    of, other = (weights(1, [(PIECE + 4,), (8,)], device=device) for _ in range(2))
    storage = torch.empty(PIECE + 5, device=device)
    of.params[0] = storage[1:].copy_(of.params[0])
    shifted = Weights(of.params, of.exp_avg, of.exp_avg_sq, of.steps, of.averages)
    assert shifted.look() is None and not shifted.aligned
    for each, backend in ((shifted, "triton"), (other, "reference")):
        optimizer_step(each, gradients(0, other), Rule(), 0.1, (0.5,), backend=backend)
    for one, same in zip(flat(shifted), flat(other)):
        torch.testing.assert_close(one, same)


@on_devices
def test_gradients_of_another_layout(device: str) -> None:
    of, other = (weights(1, [(4, 6, 3, 3), (5, 7)], device=device) for _ in range(2))
    grads = gradients(0, of)
    odd = [grads[0].contiguous(), grads[1].t().contiguous().t()]
    optimizer_step(of, odd, Rule(), 0.1, (0.5,), backend="triton")
    optimizer_step(other, grads, Rule(), 0.1, (0.5,), backend="triton")
    assert all(torch.equal(a, b) for a, b in zip(flat(of), flat(other)))


@pytest.mark.gpu
def test_the_host_never_waits() -> None:
    of = weights(2, device="cuda")
    norm = torch.tensor(3.0, device="cuda")
    steps = [gradients(k, of) for k in range(4)]
    for k, grads in enumerate(steps):
        # The tables of addresses are made in the first step.
        torch.cuda.set_sync_debug_mode("error" if k else "default")
        try:
            optimizer_step(of, grads, Rule(True), 0.1 / (1 + k), (0.5, 0.9), norm=norm, max_norm=1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert of.steps.tolist() == [4.0] * len(of)


def launches(of: Weights, grads: list[torch.Tensor], norm: bool) -> list[Launch]:
    assert of.look() is None
    number = torch.empty((), device="meta") if norm else None
    decays = (0.9,) * len(of.averages)
    with recorded() as found:
        triton_step(of, grads, Rule(True), Step(1e-3, decays, number))
    return found


def on_meta(averages: int, count: int) -> tuple[Weights, list[torch.Tensor]]:
    shapes = [(128, 128, 3, 3), (128,), (3, 128, 3, 3), (3,)] * count
    rows = [[torch.empty(s, device="meta") for s in shapes] for _ in range(4 + averages)]
    steps = torch.empty(len(shapes), device="meta")
    return Weights(*rows[:3], steps, rows[4:]), rows[3]


def test_two_launches_however_many_weights() -> None:
    for count in (1, 200):
        found = launches(*on_meta(2, count), norm=True)
        assert [launch.kernel.__name__ for launch in found] == ["_factors_kernel", "_step_kernel"]
        assert found[0].grid == (-(-4 * count // 128),)
        assert found[1].grid == ((72 + 1 + 2 + 1) * count,)


class Seen(TorchDispatchMode):
    """Writes down what is called on tensors that are not on the CPU, and every copy to them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_meta:
            name = func.overloadpacket.__name__
            self.calls.append((name, bool((kwargs or {}).get("non_blocking"))))
        return result


def test_a_step_copies_once_and_reads_nothing_back() -> None:
    of, grads = on_meta(2, 5)
    launches(of, grads, norm=True)
    of.uploaded = None
    with Seen() as seen:
        launches(of, grads, norm=True)
    copies = [call for call in seen.calls if "copy" in call[0]]
    assert copies == [("_to_copy", True)]
    assert {name for name, _ in seen.calls} <= {"_to_copy", "detach", "empty", "slice", "view"}
    with Seen() as seen:
        launches(of, grads, norm=True)
    assert not [call for call in seen.calls if "copy" in call[0]], "the same numbers are there"


def test_pieces_cover_every_weight_once() -> None:
    of = weights(0, [(PIECE,), (0,), (2 * PIECE + 1,), (1,)])
    assert of.look() is None
    assert of.pieces.tolist() == [[0, 2, 2, 2, 3], [0, 0, 1, 2, 0]]


@pytest.mark.skipif(_triton.ABSENT is not None, reason=str(_triton.ABSENT))
@pytest.mark.skipif(_triton.INTERPRETED, reason="compiles")
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("averages", "norm"), [(0, False), (1, True), (2, True), (4, True)])
def test_compiled(averages: int, norm: bool, arch: int) -> None:
    first, second = launches(*on_meta(averages, 3), norm=norm)
    binary = compiled(first, arch)
    assert binary.local == 0 and binary.registers <= 64
    binary = compiled(second, arch)
    assert binary.local == 0 and binary.registers <= 128 and binary.shared <= 4096
    # Eight elements per thread: weight, gradient, moments and averages, 128 bits at a time.
    assert binary.count("LDG", "128") >= 2 * (4 + averages)
    assert binary.count("STG", "128") >= 2 * (3 + averages)
