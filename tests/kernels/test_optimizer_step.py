"""The optimizer step: torch's formulas, backends against float64, what is skipped, refusals."""

from typing import Any

import pytest
import torch

from ctm_fast.kernels import OPS, BackendError, _native, use_backend
from ctm_fast.kernels.optimizer_step import Rule, Weights, optimizer_step, why_not
from tests.kernels.optimizer_cases import flat, gradients, rows, run, snapshot, weights
from tests.tolerance import assert_accurate

needs_native = pytest.mark.skipif(_native.ABSENT is not None, reason=str(_native.ABSENT))
BACKENDS = ["reference", "torch", pytest.param("native", marks=needs_native)]
FAST = BACKENDS[1:]
RULES = [Rule(True), Rule(False), Rule(True, 0.0, 0.99, 1e-3), Rule(False, 0.5, 0.6)]
TORCH = {True: torch.optim.RAdam, False: torch.optim.Adam}


def by_torch(rule: Rule, dtype: torch.dtype, steps: int, absent: Any) -> Weights:
    """The same run by torch's optimizer and one lerp per average."""
    of = weights(dtype=dtype)
    params = [torch.nn.Parameter(p) for p in of.params]
    optimizer = TORCH[rule.rectified](params, betas=(rule.beta1, rule.beta2), eps=rule.eps)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step % 4)
        for p, g in zip(params, gradients(step, of, absent(step))):
            p.grad = g
        optimizer.step()
        for average, decay in zip(of.averages, (0.9, 0.999)):
            torch._foreach_lerp_(average, [p.detach() for p in params], 1 - decay)
    for i, p in enumerate(params):
        of.exp_avg[i].copy_(optimizer.state[p]["exp_avg"])
        of.exp_avg_sq[i].copy_(optimizer.state[p]["exp_avg_sq"])
    return of


def by_us(rule: Rule, dtype: torch.dtype, steps: int, absent: Any, backend: str) -> Weights:
    of = weights(dtype=dtype)
    for step in range(steps):
        lr = 1e-2 / (1 + step % 4)
        grads = gradients(step, of, absent(step))
        optimizer_step(of, grads, rule, lr, (0.9, 0.999), backend=backend)
    return of


def sometimes(step: int) -> tuple[int, ...]:
    return (1, 3, 7) if step % 5 == 2 else ()


@pytest.mark.parametrize("backend", BACKENDS[:2])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_formulas_are_those_of_torch(rule: Rule, backend: str) -> None:
    """Fifty steps with gradients left out; the first five of RAdam are not rectified."""
    ours = by_us(rule, torch.float64, 50, sometimes, backend)
    theirs = by_torch(rule, torch.float64, 50, sometimes)
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for steps in (1, 5, 6):
        ours = by_us(rule, torch.float64, steps, sometimes, backend)
        for one, other in zip(ours.params, by_torch(rule, torch.float64, steps, sometimes).params):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_errors_are_those_of_torch_in_float32(rule: Rule, backend: str) -> None:
    ours = by_us(rule, torch.float32, 50, sometimes, backend)
    theirs = by_torch(rule, torch.float32, 50, sometimes)
    exact = by_torch(rule, torch.float64, 50, sometimes)
    for one, other, truth in zip(rows(ours), rows(theirs), rows(exact), strict=True):
        assert_accurate(one, other, truth)


@pytest.mark.parametrize("averages", [0, 1, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_with_everything_on(backend: str, averages: int, poisoned_memory: None) -> None:
    options: dict[str, Any] = dict(norm=torch.tensor(3.0), max_norm=2.0, loss_scale=64.0)
    for rule in RULES[:2]:
        ours = run(weights(averages), rule, backend, **options)
        plain = run(weights(averages), rule, "reference", **options)
        exact = run(weights(averages, dtype=torch.float64), rule, "reference", **options)
        assert torch.equal(ours.steps, exact.steps)
        assert ours.steps.tolist() == [10.0, 7.0, 10.0, 7.0, *[10.0] * 5]
        for one, other, truth in zip(rows(ours), rows(plain), rows(exact), strict=True):
            assert_accurate(one, other, truth)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_without_gradient_stays_and_its_averages_follow(backend: str) -> None:
    of = run(weights(), Rule(True), backend, steps=2)
    before = [[t.clone() for t in row] for row in of.rows]
    optimizer_step(of, [None] * len(of), Rule(True), 0.1, (0.5, 0.9), backend=backend)
    for i in range(len(of)):
        for k in range(3):
            assert torch.equal(of.rows[k][i], before[k][i])
        for k, decay in ((3, 0.5), (4, 0.9)):
            expected = decay * before[k][i] + (1 - decay) * before[0][i]
            torch.testing.assert_close(of.rows[k][i], expected)
    assert of.steps.tolist() == [2.0] * len(of)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", [float("inf"), float("nan")])
def test_a_norm_that_is_not_finite_changes_nothing(backend: str, norm: float) -> None:
    of = run(weights(), Rule(True), backend, steps=3)
    before = snapshot(of)
    grads = gradients(9, of)
    grads[2] = torch.full((3,), norm)
    options = dict(norm=torch.tensor(norm), max_norm=1.0, backend=backend)
    optimizer_step(of, grads, Rule(True), 0.1, (0.5, 0.9), **options)
    assert all(torch.equal(a, b) for a, b in zip(snapshot(of), before, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_clipping_is_that_of_torch(backend: str) -> None:
    for max_norm in (0.5, 1e6):
        of, other = weights(averages=0), weights(averages=0)
        grads = gradients(0, of)
        norm = torch.nn.utils.get_total_norm(grads)
        kept = [g.clone() for g in grads]
        optimizer_step(of, grads, Rule(), 0.1, norm=norm, max_norm=max_norm, backend=backend)
        assert all(torch.equal(a, b) for a, b in zip(grads, kept)), "gradients are read only"
        clipped = torch.nn.Parameter(torch.zeros(()))
        factor = min(1.0, max_norm / (float(norm) + 1e-6))
        assert clipped.grad is None
        optimizer_step(other, [g * factor for g in grads], Rule(), 0.1, backend=backend)
        for one, same in zip(flat(of), flat(other)):
            torch.testing.assert_close(one, same)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_another_layout(backend: str) -> None:
    shapes = [(4, 6, 3, 3), (5, 7)]
    of, other = weights(1, shapes), weights(1, shapes)
    grads = gradients(0, of)
    odd = [grads[0].contiguous(), grads[1].t().contiguous().t()]
    assert [g.stride() for g in odd] != [g.stride() for g in grads]
    optimizer_step(of, odd, Rule(), 0.1, (0.5,), backend=backend)
    optimizer_step(other, grads, Rule(), 0.1, (0.5,), backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(flat(of), flat(other)))


def holes() -> Weights:
    of = weights(1, [(4, 6), (5,)])
    of.params[0] = torch.zeros(4, 12)[:, ::2].copy_(of.params[0])
    rows = (of.params, of.exp_avg, of.exp_avg_sq)
    return Weights(*rows, of.steps, of.averages)


def mixed() -> Weights:
    of = weights(1, [(4, 6, 2, 2), (5,)])
    of.averages[0][0] = of.averages[0][0].contiguous()
    rows = (of.params, of.exp_avg, of.exp_avg_sq)
    return Weights(*rows, of.steps, of.averages)


@needs_native
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (holes, "does not fill its memory"),
        (mixed, "differ in memory layout"),
        (lambda: weights(1, dtype=torch.float64), "float32, not torch.float64"),
    ],
)
def test_what_native_refuses_is_left_to_torch(make: Any, reason: str) -> None:
    of, other = make(), make()
    assert reason in str(why_not("native", of))
    with pytest.raises(BackendError, match=reason):
        optimizer_step(of, gradients(0, of), Rule(), 0.1, (0.5,), backend="native")
    optimizer_step(of, gradients(0, of), Rule(), 0.1, (0.5,))
    optimizer_step(other, gradients(0, of), Rule(), 0.1, (0.5,), backend="reference")
    for one, same in zip(flat(of), flat(other)):
        torch.testing.assert_close(one, same)


@needs_native
def test_the_result_does_not_depend_on_the_number_of_threads(threads: None) -> None:
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(snapshot(run(weights(), Rule(True), "native", steps=7)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needs_native
def test_weights_that_move_in_memory_are_found_again() -> None:
    of, other = weights(1), weights(1)
    for step in range(4):
        if step == 2:
            old = of.params[6]
            old.data = old.clone()
        for each in (of, other):
            optimizer_step(each, gradients(step, of), Rule(), 0.1, (0.5,), backend="native")
    assert all(torch.equal(a, b) for a, b in zip(flat(of), flat(other)))


@needs_native
def test_one_native_call_however_many_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = _native.module.optimizer_step
    monkeypatch.setattr(
        _native.module, "optimizer_step", lambda *args: (calls.append(args), original(*args))
    )
    for count in (1, 40):
        calls.clear()
        of = weights(3, [(5, 2)] * count)
        for step in range(3):
            optimizer_step(of, gradients(step, of), Rule(True), 0.1, (0.5, 0.9, 0.99))
        assert len(calls) == 3


@needs_native
def test_native_refuses_bad_tables() -> None:
    share = torch.tensor([1.5], dtype=torch.float64)
    size = torch.tensor([4])
    table = torch.zeros(4, 1, dtype=torch.int64)
    grads = torch.zeros(1, dtype=torch.int64)
    factors = torch.zeros(3, 1, dtype=torch.float64)
    addresses = [t.data_ptr() for t in (size, table, grads, factors, share)]
    call = _native.module.optimizer_step
    with pytest.raises(ValueError, match=r"not in \(0, 1\]"):
        call(*addresses, 1, 1, 0.1, 0.1, 1.0, 1)
    with pytest.raises(ValueError, match="null address"):
        call(*addresses, 1, 0, 0.1, 0.1, 1.0, 1)
    with pytest.raises(ValueError, match="null address"):
        call(0, *addresses[1:], 1, 0, 0.1, 0.1, 1.0, 1)
    with pytest.raises(ValueError, match="negative"):
        call(*addresses, -1, 0, 0.1, 0.1, 1.0, 1)
    with pytest.raises(ValueError, match="one thread"):
        call(*addresses, 1, 0, 0.1, 0.1, 1.0, 0)


def test_backends_are_chosen_as_those_of_ops() -> None:
    assert "optimizer_step" not in OPS, "the contract of the ops is that of functions"
    of = weights(0, [(3,)])
    found = []
    for backend in ("reference", "torch"):
        again = weights(0, [(3,)])
        with use_backend(backend):
            optimizer_step(again, gradients(0, of), Rule(), 0.1)
        optimizer_step(of, gradients(0, of), Rule(), 0.1, backend=backend)
        found.append(again.params[0])
    torch.testing.assert_close(*found)
    with pytest.raises(BackendError, match="unknown backend"):
        optimizer_step(of, gradients(0, of), Rule(), 0.1, backend="fastest")
    with pytest.raises(BackendError, match="triton"):
        optimizer_step(of, gradients(0, of), Rule(), 0.1, backend="triton")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(grads=[None]), "1 gradients for 2 weights"),
        (dict(grads=[torch.zeros(3), torch.zeros(4)]), r"gradient 1 is torch.float32 of shape \(4"),
        (dict(grads=[torch.zeros(3).double(), None]), "gradient 0 is torch.float64"),
        (dict(decays=()), "0 decays for 1 averages"),
        (dict(decays=(1.0,)), r"decay 1.0 is not in \[0, 1\)"),
        (dict(norm=torch.zeros(2)), r"norm has shape \(2,\)"),
        (dict(max_norm=1.0), "needs the norm"),
        (dict(max_norm=0.0, norm=torch.ones(())), "must be positive"),
        (dict(loss_scale=0.0), "loss_scale is 0.0"),
    ],
)
def test_wrong_use_raises_value_error(changes: dict, message: str) -> None:
    of = weights(1, [(3,), (5,)])
    call = {"grads": [None, None], "rule": Rule(), "lr": 0.1, "decays": (0.5,), **changes}
    with pytest.raises(ValueError, match=message):
        optimizer_step(of, **call)


def test_weights_that_do_not_fit_together() -> None:
    one, steps = [torch.zeros(3)], torch.zeros(1)
    with pytest.raises(ValueError, match=r"\[1, 1, 1, 0\]"):
        Weights(one, one, one, steps, [[]])
    with pytest.raises(ValueError, match="int64"):
        Weights([torch.zeros(3).long()], one, one, steps)
    with pytest.raises(ValueError, match=r"tensor 0 is torch.float32 of shape \(4,\)"):
        Weights(one, one, [torch.zeros(4)], steps)
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        Weights(one, one, one, torch.zeros(2))
