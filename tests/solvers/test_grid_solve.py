"""Solves with any number of slots: same images, no wasted network calls, no lasting traces."""

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import HeunTable, heun_solve, heun_solve_reference
from ctm_fast.solvers.grid_solve import GridSolve, check_grid, check_steps, network_dtype
from ctm_fast.timesteps import TrajectoryLevels
from tests.analytic import ConstantNet
from tests.solvers.curved_net import CurvedNet

GRID = karras_sigmas(18)


def problem(seed, images=13, dtype=torch.float64):
    generator = stream(seed)
    start = torch.randint(17, (images,), generator=generator)
    steps = (torch.rand(images, generator=generator) * (18 - start)).long()
    x = torch.randn(images, 2, 4, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (images,), generator=generator)
    return (x * GRID[start, None, None, None]).to(dtype), start, steps, labels


def solve_of(model, x, **options):
    return GridSolve(model, HeunTable(model.precond, GRID, x.dtype), **options)


@pytest.mark.parametrize("sizes", [None, 2])
@pytest.mark.parametrize("slots", [1, 4, 13, 50, None])
@pytest.mark.parametrize("seed", range(3))
def test_every_image_ends_where_the_reference_ends(seed, slots, sizes):
    for dtype, destination in ((torch.float32, False), (torch.float64, True)):
        x, start, steps, labels = problem(seed, dtype=dtype)
        model = Denoiser(CurvedNet(destination, dtype))
        solve = solve_of(model, x, slots=slots, sizes=sizes)
        result = solve(x, start, steps[None], labels)[0]
        with torch.no_grad():
            plain = heun_solve_reference(model, x, GRID, start, steps, labels)
        # The network is steep: what its inputs are rounded by is multiplied at every step.
        error = ((result - plain).abs() / (1 + plain.abs())).flatten(1).amax(1)
        assert (error < 500 * torch.finfo(dtype).eps).all(), error
        assert torch.equal(result[steps == 0], x[steps == 0]) and result.dtype == dtype


def test_slots_do_not_change_a_bit_and_calls_repeat():
    x, start, steps, labels = problem(0)
    model = Denoiser(CurvedNet())
    expected = heun_solve(model, x, GRID, start, steps, labels)
    for slots in (1, 3, 13):
        solve = solve_of(model, x, slots=slots)
        for _ in range(2):
            assert torch.equal(solve(x, start, steps[None], labels)[0], expected)
        assert torch.equal(heun_solve(model, x, GRID, start, steps, labels, slots=slots), expected)


@pytest.mark.parametrize("M", [17, 20, 39])
@pytest.mark.parametrize("law", ["weighted", "uniform"])
def test_network_evaluations_over_16_microbatches_of_11(M, law):
    """Images given to the network, counted by the network: none wasted, or 1 % where padded."""
    levels = TrajectoryLevels(max_steps=M, step_count=law, per_sample=True)
    grid = karras_sigmas(M + 1)
    for slots in (11, 32, 64):
        drawn = levels.sample(176, M + 1, stream(M, slots))
        x, needed = torch.zeros(176, 1, 1, 1), 2 * int(drawn.num_steps.sum())
        for sizes, most in ((None, needed), (8, 1.01 * needed)):
            model = Denoiser(ConstantNet())
            solve = GridSolve(model, HeunTable(model.precond, grid), slots=slots, sizes=sizes)
            solve(x, drawn.t_index, drawn.num_steps[None])
            assert needed <= model.net.rows <= most, (slots, sizes)
            batches = max(int(drawn.num_steps.max()), -(-needed // (2 * slots)))
            assert model.net.calls == 2 * batches


def test_memory_is_reused_for_fewer_images_and_never_seen_through():
    model = Denoiser(CurvedNet())
    solve = None
    for seed, images in ((0, 13), (1, 5), (2, 13), (3, 20)):
        x, start, steps, labels = problem(seed, images)
        solve = solve or solve_of(model, x, slots=4)
        for given in (labels, None):
            result = solve(x, start, steps[None], given)[0]
            assert torch.equal(result, heun_solve(model, x, GRID, start, steps, given))
    assert len(solve._memories) == 2


def test_every_batch_goes_through_run_and_may_be_run_again():
    """As a CUDA graph does: inputs in fixed memory, trial runs, the first function for ever."""
    kept, calls = {}, []

    def run(key, function, numbers):
        key = (key, numbers.shape)
        calls.append(key)
        if key not in kept:
            kept[key] = (function, numbers.clone())
            kept[key][0](kept[key][1])
            kept[key][0](kept[key][1])
        first, static = kept[key]
        static.copy_(numbers)
        assert first(static) is None

    model = Denoiser(CurvedNet())
    solve = None
    for seed in range(4):
        x, start, steps, labels = problem(seed)
        solve = solve or solve_of(model, x, slots=8, sizes=2, run=run)
        result = solve(x, start, steps[None], labels)[0]
        expected = heun_solve(model, x, GRID, start, steps, labels)
        assert torch.equal(result, expected)
    assert len(kept) == 2 and {shape[1] for _, shape in kept} == {4, 8}


def test_states_in_between():
    x, start, steps, labels = problem(5)
    model = Denoiser(CurvedNet())
    asked = torch.stack([steps, steps // 2, torch.zeros_like(steps), steps - steps // 3])
    solve = solve_of(model, x, slots=5)
    calls = model.net.rows
    kept = solve(x, start, asked, labels, keep=True)
    assert kept.shape == (4, *x.shape) and model.net.rows - calls == 2 * int(steps.sum())
    for state, counts in zip(kept, asked, strict=True):
        assert torch.equal(state, heun_solve(model, x, GRID, start, counts, labels))


class Told(CurvedNet):
    """CurvedNet that can be told its levels by rows."""

    def __init__(self):
        super().__init__()
        self.embedded = 0

    def modulation(self, c_noise, c_noise_to=None, labels=None, augment_labels=None):
        self.embedded += len(c_noise)
        return c_noise[:, None] * self.scale

    def forward(self, x, c_noise=None, c_noise_to=None, labels=None, modulation=None):
        if modulation is not None:
            assert labels is None
            c_noise = modulation[:, 0] / self.scale
        return super().forward(x, c_noise, c_noise_to, labels)


def test_a_frozen_network_embeds_the_grid_once():
    x, start, steps, labels = problem(1)
    model = Denoiser(Told().requires_grad_(False))
    solve = solve_of(model, x, slots=4)
    for _ in range(2):
        result = solve(x, start, steps[None])[0]
        plain = heun_solve_reference(Denoiser(CurvedNet()), x, GRID, start, steps)
        assert torch.allclose(result, plain.detach(), rtol=1e-9)
    assert model.net.embedded == len(GRID) + 1
    solve(x, start, steps[None], labels)
    assert model.net.embedded == len(GRID) + 1
    address = solve._rows.data_ptr()
    with torch.no_grad():
        model.net.scale *= 1.5
    changed = solve(x, start, steps[None])[0]
    with torch.no_grad():
        plain = heun_solve_reference(model, x, GRID, start, steps)
    assert torch.allclose(changed, plain, rtol=1e-9) and not torch.allclose(changed, result)
    assert model.net.embedded == 2 * (len(GRID) + 1) and solve._rows.data_ptr() == address


def test_weights_that_learn_are_not_tabulated():
    x, start, steps, _ = problem(1)
    model = Denoiser(Told())
    solve_of(model, x)(x, start, steps[None])
    assert model.net.embedded == 0


def test_inference_mode_leaves_usable_memory():
    x, start, steps, labels = problem(2)
    solve = solve_of(Denoiser(CurvedNet()), x)
    with torch.inference_mode():
        first = solve(x, start, steps[None], labels)
    assert torch.equal(solve(x, start, steps[None], labels), first)


def test_wrong_use():
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        heun_solve(Denoiser(CurvedNet()), *problem(0)[:1], GRID, *problem(0)[1:3], slots=0)


def test_checks():
    start, steps = check_steps(2, 18, torch.tensor([3, 4], dtype=torch.int32), 2)
    assert start.dtype == steps.dtype == torch.int64 and steps.tolist() == [2, 2]
    assert check_grid(torch.zeros(2, 3), GRID) == 18
    assert network_dtype(Denoiser(CurvedNet(dtype=torch.float32)), GRID) == torch.float32
    assert network_dtype(object(), GRID) == torch.float64


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [3, None])
def test_nothing_waits_for_the_gpu(slots):
    x, start, steps, labels = problem(3, dtype=torch.float32)
    model = Denoiser(CurvedNet(dtype=torch.float32), Preconditioning(EDM()))
    expected = heun_solve(model, x, GRID, start, steps, labels)
    model.cuda().net.inputs.clear()
    x, labels = x.cuda(), labels.cuda()
    solve = GridSolve(model, HeunTable(model.precond, GRID, x.dtype, x.device), slots=slots)
    solve(x, start, steps[None], labels)
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = solve(x, start, steps[None], labels)[0]
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-3, atol=1e-3)
