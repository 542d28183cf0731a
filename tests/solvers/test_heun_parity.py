"""The solvers with the published networks, against their own runs.

The networks are too large to be stored here, so these tests need the whole fixtures; what needs
no network is in `test_heun.py` and `test_churn.py`.
"""

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.models import ADMConfig, SongConfig, net_from_config
from ctm_fast.models.key_layouts import from_published
from ctm_fast.precond import Preconditioning
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers import Churn, Euler, Heun, heun_solve, heun_solve_reference, solve
from tests.fixtures import assert_within, fixture_dir, load_fixture, load_weights, tolerance

CTM, EDM = "ctm_heun_solver", "edm_heun_sampler"
SHAPE = dict(img_resolution=16, label_dim=10, model_channels=32, channel_mult=(1, 2), num_blocks=1)
RUNS = [(N, n) for N in (40, 18) for n in (1, 3, 17)]

pytestmark = pytest.mark.skipif(
    fixture_dir(CTM) is None or fixture_dir(EDM) is None, reason="needs the whole fixtures"
)


def network(name, config, layout, dtype):
    net = net_from_config(config)
    net.load_state_dict(from_published(load_weights(name), config, layout))
    return net.to(dtype).eval()


@pytest.fixture(scope="module")
def ctm():
    config = ADMConfig(
        **SHAPE, attn_resolutions=(8,), bottleneck_attention=True, channels_per_head=32, dropout=0.0
    )
    precond = Preconditioning(noise_embedding="log_250")
    nets = {d: network(CTM, config, "adm", d) for d in (torch.float32, torch.float64)}
    return {d: Denoiser(net, precond) for d, net in nets.items()}, *load_fixture(CTM)


@pytest.mark.parametrize(("N", "n"), RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_teacher_solve(ctm, dtype, N, n):
    models, tensors, meta = ctm
    suffix = f"_N{N}_h{n}"
    start, grid = tensors["ind" + suffix], karras_sigmas(N)
    args = (models[dtype], tensors["x" + suffix].to(dtype), grid, start, n, tensors["y"])
    name = ("x_dt" if dtype == torch.float32 else "x_dt_f64") + suffix
    assert_within(heun_solve(*args), tensors[name], tolerance(meta, name))
    for index, level in ((start, "t"), (start + n, "t_dt")):
        assert_within(grid[index], tensors[level + suffix], tolerance(meta, level + suffix))
    if n < 17:
        with torch.no_grad():
            assert_within(heun_solve_reference(*args), tensors[name], tolerance(meta, name))


def test_teacher_solve_with_counts_that_differ(ctm):
    """One call for what was recorded as two runs of 1 and 3 steps."""
    models, tensors, meta = ctm
    both = ("_N40_h1", "_N40_h3")
    x, start = (torch.cat([tensors[k + s] for s in both]) for k in ("x", "ind"))
    counts = torch.tensor([1] * 4 + [3] * 4)
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
    labels = tensors["y"].repeat(2)
    result = torch.empty_like(x)
    result[order] = heun_solve(
        models[torch.float32],
        x[order],
        karras_sigmas(40),
        start[order],
        counts[order],
        labels[order],
    )
    for rows, suffix in zip(result.chunk(2), both, strict=True):
        assert_within(rows, tensors["x_dt" + suffix], tolerance(meta, "x_dt" + suffix))


@pytest.fixture(scope="module")
def edm():
    config = SongConfig(**SHAPE, attn_resolutions=(8,))
    return Denoiser(network(EDM, config, "edm", torch.float32)), *load_fixture(EDM)


@pytest.fixture(scope="module")
def grid():
    return [*karras_sigmas(18).tolist(), 0.0]


def predicted(step):
    """Where the first half of a recorded Heun step ended."""

    def denoised(*_):
        return step["denoised"]

    return Euler().step(denoised, step["x"], step["sigma"], step["sigma_next"])


@torch.no_grad()
def test_edm_heun_run(edm, grid):
    model, tensors, meta = edm
    x = tensors["latents"].double() * grid[0]
    steps = []
    end = solve(model, x, grid, Heun(), tensors["class_labels"], callback=steps.append)
    states = torch.stack([*(s["x"] for s in steps), end])
    denoised = torch.stack([s["denoised"] for s in steps])
    euler = torch.stack([predicted(step) for step in steps[:-1]])
    for name, actual in (("x_traj", states), ("denoised_1st", denoised), ("x_euler", euler)):
        assert_within(actual, tensors[name], tolerance(meta, name))


@torch.no_grad()
def test_edm_run_without_labels_and_in_float64(edm, grid):
    model, tensors, meta = edm
    x = tensors["latents"].double() * grid[0]
    end = solve(model, x, grid)
    assert_within(end, tensors["x_final_nolabel"], tolerance(meta, "x_final_nolabel"))
    double = Denoiser(network(EDM, model.net.config, "edm", torch.float64))
    end = solve(double, x, grid, labels=tensors["class_labels"])
    assert_within(end, tensors["x_final_f64"], tolerance(meta, "x_final_f64"))


@torch.no_grad()
def test_teacher_solve_walks_the_edm_grid_too(edm, grid):
    """The fused steps down to sigma_min, then the denoised image, are EDM's sampler."""
    model, tensors, meta = edm
    x, labels = tensors["latents"].double() * grid[0], tensors["class_labels"]
    x = heun_solve(model, x, grid[:-1], torch.zeros(2, dtype=torch.int64), 17, labels)
    end = torch.stack([x, model(x, grid[-2], labels)])
    assert_within(end, tensors["x_traj"][-2:], tolerance(meta, "x_traj"))


@torch.no_grad()
def test_edm_euler_run(edm, grid):
    model, tensors, meta = edm
    x = tensors["latents"].double() * grid[0]
    end = solve(model, x, grid, Euler(), tensors["class_labels"])
    assert_within(end, tensors["euler_x_final"], tolerance(meta, "euler_x_final"))


@torch.no_grad()
def test_edm_churn_run(edm, grid):
    model, tensors, meta = edm
    x, steps = tensors["latents"].double() * grid[0], []
    churn = Churn(tensors["churn_noise"].__getitem__, 18, **meta["hyper"]["churn"])
    labels = tensors["class_labels"]
    end = solve(model, x, grid, Heun(), labels, callback=steps.append, perturb=churn)
    states = torch.stack([s["x"] for s in steps])
    levels = torch.tensor([s["sigma"] for s in steps], dtype=torch.float64)
    for name, actual in (
        ("churn_x_hat", states),
        ("churn_t_hat", levels),
        ("churn_x_final", end),
    ):
        assert_within(actual, tensors[name], tolerance(meta, name))
