"""Heun's method and CTM's batched teacher solve."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.kernels import _native, use_backend
from ctm_fast.precond import CM, EDM, OUTER, Plain, Preconditioning
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import Heun, HeunTable, heun_solve, heun_solve_reference, solve
from tests.analytic import ConstantNet, Gaussian, GaussianNet
from tests.fixtures import assert_within, load_golden
from tests.solvers.curved_net import CurvedNet

GRID = karras_sigmas(18)
STARTS, COUNTS = torch.tensor([0, 3, 5, 9, 2, 16, 4]), torch.tensor([3, 1, 0, 4, 4, 1, 3])


def noisy(starts=STARTS, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(starts), 2, 4, 4, dtype=torch.float64, generator=generator)
    return (x * GRID[starts].reshape(-1, 1, 1, 1)).to(dtype)


def end_of_gaussian(num_scales, *last):
    x = torch.full((1, 1), 80.0, dtype=torch.float64)
    return solve(Gaussian(), x, [*karras_sigmas(num_scales).tolist(), *last], Heun()).item()


def test_golden_ends():
    assert end_of_gaussian(18) == pytest.approx(0.527633, abs=5e-7)
    assert end_of_gaussian(40) == pytest.approx(0.504885, abs=5e-7)
    assert end_of_gaussian(18, 0.0) == pytest.approx(0.527624637001047, rel=1e-12)
    assert end_of_gaussian(40, 0.0) == pytest.approx(0.504876864654227, rel=1e-12)


@pytest.mark.parametrize(("num_scales", "golden"), [(18, 0.527633), (40, 0.504885)])
def test_golden_ends_of_the_teacher_solve(num_scales, golden):
    net = ConstantNet().double()
    x = torch.full((1, 1, 1, 1), 80.0, dtype=torch.float64)
    grid, steps = karras_sigmas(num_scales), num_scales - 1
    end = heun_solve(Denoiser(net), x, grid, torch.tensor([0]), steps)
    assert end.item() == pytest.approx(golden, abs=5e-7) and net.calls == 2 * steps
    assert end.item() == pytest.approx(end_of_gaussian(num_scales), rel=1e-12)


def test_order_two():
    exact = 80 * math.sqrt((0.25 + 0.002**2) / (0.25 + 6400))
    errors = [abs(end_of_gaussian(n + 1) / exact - 1) for n in (8, 16, 32, 64, 128)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([2.14, 2.10, 2.05, 2.02], abs=0.02) and Heun.order == 2


def test_recorded_edm_trajectory_with_the_recorded_network_outputs():
    """EDM's own run: every state and every predicted point, from its denoised images."""
    tensors, _ = load_golden("edm_heun_sampler")
    first, second = tensors["denoised_1st"], tensors["denoised_2nd"]
    outputs = [d for pair in zip(first, second, strict=False) for d in pair] + [first[-1]]
    seen = []

    def replay(x, sigma, labels=None):
        seen.append((x, sigma))
        return outputs[len(seen) - 1].to(x.dtype)

    states, levels = [tensors["x_traj"][0]], tensors["t_steps"].tolist()
    solve(replay, states[0], levels, Heun(), callback=lambda step: states.append(step["x"]))
    final = seen[-1][0] + (0 - levels[-2]) * (seen[-1][0] - outputs[-1]) / levels[-2]
    x_traj = torch.stack([*states[1:], final])
    strict = {"mode": "slice", "rtol": 1e-12, "atol": 1e-12}
    assert_within(x_traj, tensors["x_traj"], strict)
    assert_within(torch.stack([x for x, _ in seen[1:-1:2]]), tensors["x_euler"], strict)
    assert [sigma for _, sigma in seen[::2]] == levels[:-1] and len(seen) == 35


@pytest.mark.parametrize("destination", [False, True])
@pytest.mark.parametrize("outer", OUTER.names())
@pytest.mark.parametrize("inner", [EDM(), EDM(0.9), CM(), Plain()])
def test_fused_steps_are_the_plain_formula(inner, outer, destination):
    precond = Preconditioning(inner, OUTER[outer](), "quarter_log")
    model = Denoiser(CurvedNet(destination), precond)
    x, labels = noisy(), torch.arange(len(STARTS)) % 3
    fused = heun_solve(model, x, GRID, STARTS, COUNTS, labels)
    plain = heun_solve_reference(model, x, GRID, STARTS, COUNTS, labels)
    assert ((fused - plain).abs() / (1 + x.abs())).max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixed_starts_and_counts_equal_runs_of_one_image(dtype):
    model = Denoiser(CurvedNet(dtype=dtype))
    x, labels = noisy(dtype=dtype), torch.arange(len(STARTS)) % 3
    together = heun_solve(model, x, GRID, STARTS, COUNTS, labels)
    rows = [slice(j, j + 1) for j in range(len(x))]
    alone = [heun_solve(model, x[r], GRID, STARTS[r], int(COUNTS[r]), labels[r]) for r in rows]
    alone = torch.cat(alone)
    eps = torch.finfo(dtype).eps
    assert ((together - alone).abs() / (1 + alone.abs())).max() < 32 * eps
    for r in rows:
        i, n = int(STARTS[r]), int(COUNTS[r])
        if n:
            exact = solve(
                Denoiser(CurvedNet()), x[r].double(), GRID[i : i + n + 1], Heun(), labels[r]
            )
            assert ((together[r] - exact).abs() / (1 + exact.abs())).max() < 1e3 * eps


def test_finished_images_keep_their_bits():
    model = Denoiser(CurvedNet(dtype=torch.float32))
    x = noisy(dtype=torch.float32)
    result = heun_solve(model, x, GRID, STARTS, COUNTS)
    assert torch.equal(result[2], x[2]) and COUNTS[2] == 0
    longer = heun_solve(model, x, GRID, STARTS, torch.where(COUNTS == 4, 5, COUNTS))
    same = COUNTS != 4
    assert torch.equal(result[same], longer[same])
    assert not torch.equal(result[~same], longer[~same])


def test_only_active_images_are_computed():
    net = CurvedNet()
    heun_solve(Denoiser(net), noisy(), GRID, STARTS, COUNTS)
    assert net.calls == 2 * int(COUNTS.max()) and net.rows == 2 * int(COUNTS.sum())
    net = CurvedNet()
    heun_solve(Denoiser(net), noisy(), GRID, STARTS, 1)
    assert net.calls == 2 and net.rows == 2 * len(STARTS)


def test_input_is_not_changed_and_order_is_kept():
    x, starts, counts = noisy(), STARTS.clone(), COUNTS.clone()
    before = x.clone()
    model = Denoiser(CurvedNet())
    result = heun_solve(model, x, GRID, starts, counts)
    assert torch.equal(x, before) and torch.equal(starts, STARTS) and torch.equal(counts, COUNTS)
    back = torch.arange(len(x)).flip(0)
    flipped = heun_solve(model, x[back], GRID, starts[back], counts[back])
    assert torch.allclose(flipped[back], result, rtol=1e-13)


def test_no_steps_and_no_images():
    model, x = Denoiser(CurvedNet()), noisy()
    assert torch.equal(heun_solve(model, x, GRID, STARTS, 0), x)
    empty = heun_solve(model, x[:0], GRID, STARTS[:0], 3)
    assert empty.shape == (0, 2, 4, 4)
    last = torch.full_like(STARTS, 17)
    assert torch.equal(heun_solve(model, x, GRID, last, torch.zeros_like(last)), x)


def test_no_gradient():
    model, x = Denoiser(CurvedNet()), noisy().requires_grad_()
    assert not heun_solve(model, x, GRID, STARTS, COUNTS).requires_grad


@pytest.mark.parametrize("network", [torch.float32, torch.bfloat16, torch.float16])
def test_float32_state_around_a_network_in_its_own_dtype(network):
    net = CurvedNet(dtype=network)
    x, labels = noisy(dtype=torch.float32), torch.arange(len(STARTS)) % 3
    result = heun_solve(Denoiser(net), x, GRID, STARTS, COUNTS, labels)
    assert result.dtype == torch.float32 and all(i.dtype == network for i in net.inputs)
    exact = heun_solve_reference(Denoiser(CurvedNet()), x.double(), GRID, STARTS, COUNTS, labels)
    error = ((result - exact).abs() / (1 + exact.abs())).max()
    assert error < 200 * torch.finfo(network).eps
    plain = heun_solve_reference(Denoiser(net), x, GRID, STARTS, COUNTS, labels)
    assert error <= 2 * ((plain - exact).abs() / (1 + exact.abs())).max() + 1e-6


def test_float64_state_around_a_float32_network():
    net = CurvedNet(dtype=torch.float32)
    result = heun_solve(Denoiser(net), noisy(), GRID, STARTS, COUNTS)
    plain = heun_solve_reference(Denoiser(net), noisy(), GRID, STARTS, COUNTS)
    assert result.dtype == torch.float64 and torch.allclose(result, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ragged", [False, True])
def test_layout_of_the_network_is_followed(ragged):
    class ChannelsLast(CurvedNet):
        def forward(self, x, *args):
            out = super().forward(x, *args)
            return out.contiguous(memory_format=torch.channels_last)

    counts = COUNTS if ragged else 1
    x, net = noisy(dtype=torch.float32), ChannelsLast(dtype=torch.float32)
    result = heun_solve(Denoiser(net), x, GRID, STARTS, counts)
    assert result.is_contiguous(memory_format=torch.channels_last)
    inputs = net.inputs[1:]
    assert all(i.is_contiguous(memory_format=torch.channels_last) for i in inputs)
    plain = heun_solve(Denoiser(CurvedNet(dtype=torch.float32)), x, GRID, STARTS, counts)
    assert torch.allclose(result, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counts", [COUNTS, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("network", [torch.float32, torch.bfloat16])
def test_every_backend_agrees(poisoned_memory, network, layout, counts):
    model = Denoiser(CurvedNet(dtype=network))
    x = noisy(dtype=torch.float32).contiguous(memory_format=layout)
    with use_backend("reference"):
        expected = heun_solve(model, x, GRID, STARTS, counts)
    tol = 20 * torch.finfo(network).eps
    # Asked for by name, a backend that cannot take one of the calls would be an error.
    for backend in ("auto", *(["native"] if _native.ABSENT is None else [])):
        with use_backend(backend):
            result = heun_solve(model, x, GRID, STARTS, counts)
        assert torch.allclose(result, expected, rtol=tol, atol=tol)


def test_other_callables_take_the_plain_formula():
    calls = []

    def denoiser(x, sigma, labels=None):
        calls.append(labels)
        return Gaussian()(x, sigma)

    labels = torch.arange(len(STARTS))
    result = heun_solve(denoiser, noisy(), GRID, STARTS, COUNTS, labels)
    exact = heun_solve(GaussianNet(channels=2).double().denoiser(), noisy(), GRID, STARTS, COUNTS)
    assert torch.allclose(result, exact, rtol=1e-8, atol=1e-9)
    assert len(calls) == 2 * int(COUNTS.max()) and calls[0] is labels


def test_labels_may_be_weights_or_one_row_for_all():
    class Soft(CurvedNet):
        def forward(self, x, c_noise, c_noise_to=None, labels=None):
            return super().forward(x, c_noise, None, labels.double() @ torch.arange(3.0).double())

    model, x = Denoiser(Soft()), noisy()
    classes = torch.arange(len(STARTS)) % 3
    soft = nn.functional.one_hot(classes, 3)
    hard = heun_solve(Denoiser(CurvedNet()), x, GRID, STARTS, COUNTS, classes)
    assert torch.allclose(heun_solve(model, x, GRID, STARTS, COUNTS, soft), hard)
    one = heun_solve(model, x, GRID, STARTS, COUNTS, soft[1:2])
    hard = heun_solve(Denoiser(CurvedNet()), x, GRID, STARTS, COUNTS, classes * 0 + 1)
    assert torch.allclose(one, hard)


def test_table_is_computed_in_float64_and_can_be_shared():
    precond = Preconditioning(noise_embedding="log_250")
    single, double = (HeunTable(precond, GRID, dtype) for dtype in (torch.float32, torch.double))
    assert len(double) == 18 and torch.equal(single.values, double.values.float())
    index = torch.tensor([3, 0])
    at = double.at(index)
    t, t_to, sd = GRID[index], GRID[index + 1], 0.5
    a, b = t / (t**2 + sd**2), -sd / (t**2 + sd**2).sqrt()
    a_to, b_to = t_to / (t_to**2 + sd**2), -sd / (t_to**2 + sd**2).sqrt()
    h = t_to - t
    expected = {
        "alpha": 1 + h * a,
        "beta": h * b,
        "A": 1 + h / 2 * (a + a_to * (1 + h * a)),
        "B": h / 2 * (b + a_to * h * b),
        "C": h / 2 * b_to,
        "c_in": 1 / (t**2 + sd**2).sqrt(),
        "c_in_to": 1 / (t_to**2 + sd**2).sqrt(),
        "c_noise": 250 * t.log(),
        "c_noise_to": 250 * t_to.log(),
    }
    assert list(at) == list(expected)
    for name, value in expected.items():
        assert torch.allclose(at[name], value, rtol=1e-11, atol=1e-14), name
    model = Denoiser(CurvedNet(), precond)
    shared = heun_solve(model, noisy(), GRID, STARTS, COUNTS, table=double)
    assert torch.equal(shared, heun_solve(model, noisy(), GRID, STARTS, COUNTS))


def test_last_row_of_the_table_is_the_identity():
    last = {
        k: v.item() for k, v in HeunTable(Preconditioning(), GRID).at(torch.tensor([17])).items()
    }
    assert (last["alpha"], last["beta"], last["A"], last["B"], last["C"]) == (1, 0, 1, 0, 0)


BAD = [
    (GRID, STARTS + 10, COUNTS, r"start=\d+ with num_steps=\d+ leaves the grid of 18 levels"),
    (GRID, STARTS - 1, COUNTS, "start=-1"),
    (GRID, STARTS, -COUNTS, "num_steps=-3"),
    (GRID, STARTS.double() / 17, 1, "real positions \\(time_continuous\\) have no teacher solve"),
    (GRID, STARTS, 0.5, "whole numbers of grid steps"),
    (GRID, STARTS[:3], 1, r"start must be \(7,\) .* got \(3,\)"),
    (GRID, STARTS, COUNTS[:3], r"got \(7,\) and \(3,\)"),
    ([*GRID.tolist(), 0.0], STARTS, COUNTS, "all above 0"),
    (GRID[:, None].expand(18, 7), STARTS, COUNTS, r"needs sigmas \(num_scales,\)"),
]


@pytest.mark.parametrize("solver", [heun_solve, heun_solve_reference])
@pytest.mark.parametrize(("grid", "starts", "counts", "message"), BAD)
def test_wrong_use(solver, grid, starts, counts, message):
    with pytest.raises(ValueError, match=message):
        solver(Denoiser(CurvedNet()), noisy(), grid, starts, counts)
