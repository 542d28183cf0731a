"""The teacher's solve that is kept over optimizer steps."""

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.inference import freeze
from ctm_fast.inference.graphs import GraphPool
from ctm_fast.inference.teacher import SIZES, TeacherSolve
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import heun_solve, heun_solve_reference
from ctm_fast.solvers.slots import schedule
from tests.models.tiny import ADM, SONG, randomised
from tests.solvers.curved_net import CurvedNet

GRID = karras_sigmas(18)


def problem(seed=0, images=9, dtype=torch.float64, side=8):
    generator = stream(seed)
    start = torch.randint(14, (images,), generator=generator)
    steps = torch.randint(5, (images,), generator=generator).minimum(17 - start)
    x = torch.randn(images, 2, side, side, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (images,), generator=generator)
    return (x * GRID[start, None, None, None]).to(dtype), start, steps, labels


def relative(result, expected):
    return float(((result - expected).abs() / (1 + expected.abs())).max())


@pytest.fixture(scope="module", params=[SONG, ADM], ids=["song", "adm"])
def model(request):
    return Denoiser(randomised(request.param)).requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("labelled", [None, "classes", "weights", "one row"])
@pytest.mark.parametrize("slots", [None, 4])
def test_our_networks_end_where_the_reference_ends(model, slots, labelled):
    x, start, steps, classes = problem(images=6)
    weights = torch.eye(3, dtype=x.dtype)[classes]
    labels = {"classes": classes, "weights": weights, "one row": weights[:1]}.get(labelled)
    solve = TeacherSolve(model, GRID, slots=slots)
    expected = heun_solve_reference(model, x, GRID, start, steps, labels)
    for _ in range(2):
        assert relative(solve(x, start, steps, labels), expected) < 1e-10
    assert torch.equal(solve(x, start, steps, labels)[steps == 0], x[steps == 0])


def test_a_frozen_network_does_the_same():
    model = Denoiser(randomised(SONG).float())
    x, start, steps, labels = problem(dtype=torch.float32)
    frozen = freeze(model, torch.float32)
    for given in (None, labels):
        expected = heun_solve(model, x, GRID, start, steps, given)
        assert (
            relative(TeacherSolve(frozen, GRID, slots=4)(x, start, steps, given), expected) < 1e-3
        )


def test_one_object_serves_many_batches_and_dtypes():
    solve = TeacherSolve(Denoiser(CurvedNet(dtype=torch.float32)), GRID, slots=3)
    for seed, images in ((0, 9), (1, 4), (2, 11), (3, 0)):
        for dtype in (torch.float32, torch.float64):
            x, start, steps, labels = problem(seed, images, dtype, side=4)
            expected = heun_solve(solve.denoiser, x, GRID, start, steps, labels)
            assert torch.equal(solve(x, start, steps, labels), expected)
            shared = heun_solve(solve.denoiser, x, GRID, start * 0, 2, labels)
            assert torch.equal(solve(x, start * 0, 2, labels), shared)


class Recorder:
    """A pool that runs every function as a capture would, and counts."""

    def __init__(self):
        self.static, self.replays = {}, 0

    def run(self, key, function, *inputs):
        key = (key, *(t.shape for t in inputs))
        if key not in self.static:
            self.static[key] = (function, [t.clone() for t in inputs])
            for _ in range(2):
                function(*self.static[key][1])
        captured, own = self.static[key]
        for there, given in zip(own, inputs, strict=True):
            there.copy_(given)
        self.replays += 1
        assert captured(*own) is None


@pytest.mark.parametrize("solver", ["heun", "multistep"])
def test_a_pool_gets_one_call_per_network_batch_and_changes_nothing(solver):
    denoiser, pool = Denoiser(CurvedNet()), Recorder()
    pooled, plain = (
        TeacherSolve(denoiser, GRID, slots=4, solver=solver, pool=p) for p in (pool, None)
    )
    for seed in range(3):
        x, start, steps, labels = problem(seed, side=4)
        passes = steps + (steps > 0) if solver == "multistep" else steps
        before = pool.replays
        assert torch.equal(pooled(x, start, steps, labels), plain(x, start, steps, labels))
        assert pool.replays - before == len(schedule(passes, 4))
    assert len(pool.static) <= 4


def test_a_pool_on_a_cpu_is_transparent_and_pads_nothing():
    denoiser = Denoiser(CurvedNet())
    x, start, steps, labels = problem(side=4)
    expected = heun_solve(denoiser, x, GRID, start, steps, labels)
    before = denoiser.net.rows
    solve = TeacherSolve(denoiser, GRID, slots=64, pool=GraphPool())
    assert torch.equal(solve(x, start, steps, labels), expected)
    assert denoiser.net.rows - before == 2 * int(steps.sum())


def test_points_on_the_way_cost_nothing():
    denoiser = Denoiser(CurvedNet())
    solve = TeacherSolve(denoiser, GRID, slots=4)
    x, start, steps, labels = problem(side=4)
    asked = torch.stack([steps // 2, steps])
    before = denoiser.net.rows
    points = solve.trajectory(x, start, asked, labels)
    assert denoiser.net.rows - before == 2 * int(steps.sum())
    assert torch.equal(points[1], solve(x, start, steps, labels))
    assert torch.equal(points[0], solve(x, start, steps // 2, labels))
    assert solve.trajectory(x[:0], start[:0], asked[:, :0]).shape == (2, 0, 2, 4, 4)


WRONG = [
    ({"slots": 0}, "slots must be at least 1, got 0"),
    ({"solver": "rk4"}, r"unknown teacher solver 'rk4'; choose from \['heun', 'multistep'\]"),
    ({"sigmas": [1.0, 0.0]}, "all above 0"),
    ({"denoiser": lambda x, sigma, labels=None: x}, "a function has no `raw` and `precond`"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        TeacherSolve(**{"denoiser": Denoiser(CurvedNet()), "sigmas": GRID, **options})


def test_wrong_calls():
    solve = TeacherSolve(Denoiser(CurvedNet()), GRID)
    x, start, steps, _ = problem(side=4)
    with pytest.raises(ValueError, match=r"float32 or float64, got torch\.bfloat16"):
        solve(x.bfloat16(), start, steps)
    with pytest.raises(ValueError, match="leaves the grid of 18 levels"):
        solve(x, start, 17)
    with pytest.raises(ValueError, match=r"num_steps must be \(points, 9\)"):
        solve.trajectory(x, start, steps)
    with pytest.raises(ValueError, match="real positions"):
        solve(x, start.double(), steps)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("solver", ["heun", "multistep"])
def test_nothing_is_read_back_from_where_the_images_are(solver, labelled):
    """Tensors on the meta device have no values: looking at one is an error."""
    x, start, steps, labels = problem(dtype=torch.float32)
    model = Denoiser(randomised(SONG).float()).requires_grad_(False)
    expected = TeacherSolve(model, GRID, slots=4, solver=solver)(x, start, steps, labels)
    solve = TeacherSolve(model.to("meta"), GRID, slots=4, solver=solver)
    result = solve(x.to("meta"), start, steps, labels.to("meta") if labelled else None)
    assert result.is_meta and result.stride() == expected.stride()
    with pytest.raises(NotImplementedError, match="meta"):
        solve(x.to("meta"), start.to("meta"), steps)


@pytest.mark.gpu
@pytest.mark.parametrize("solver", ["heun", "multistep"])
@pytest.mark.parametrize("labelled", [False, True])
def test_one_replay_per_batch_and_no_synchronisation(labelled, solver):
    model = Denoiser(randomised(SONG).float()).requires_grad_(False)
    problems = [problem(seed, dtype=torch.float32) for seed in range(3)]
    expected = [
        TeacherSolve(model, GRID, solver=solver)(x, start, steps, labels if labelled else None)
        for x, start, steps, labels in problems
    ]
    pool, slots = GraphPool(), 4
    solve = TeacherSolve(model.cuda(), GRID, slots=slots, pool=pool, solver=solver)
    for round_ in range(2):  # the first one captures
        for (x, start, steps, labels), cpu in zip(problems, expected, strict=True):
            x, labels = x.cuda(), labels.cuda() if labelled else None
            torch.cuda.synchronize()
            before, mode = pool.stats.replays, torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error" if round_ else "default")
            try:
                result = solve(x, start, steps, labels)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
            assert relative(result.cpu(), cpu) < 1e-2
            passes = steps + (steps > 0) if solver == "multistep" else steps
            plan = schedule(passes, slots, -(-slots // SIZES))
            assert pool.stats.replays - before == len(plan)
    assert pool.stats.eager == 0 and pool.stats.captures <= slots
