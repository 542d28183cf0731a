"""The posterior mean over a reference set: unbiased, of less variance, stable, exact on sets."""

import pytest
import torch
from torch import Tensor

from ctm_fast.losses import score_identity
from ctm_fast.losses.score_identity import moved, posterior_mean
from ctm_fast.rng import stream

from .oracle import DATA, denoised, draws, variance

# Mean variance of the target at x_t, over the mixture: rows t, columns size of the set.
SIZES = (1, 2, 8, 32, 128, 512)
VARIANCES = {
    0.1: (0.0081, 0.0068, 0.0031, 0.0010, 0.00030, 0.00008),
    0.3: (0.0426, 0.0297, 0.0098, 0.0024, 0.00066, 0.00016),
    0.6: (0.1808, 0.0987, 0.0230, 0.0053, 0.0013, 0.0003),
    1.0: (0.3511, 0.1822, 0.0429, 0.0103, 0.0024, 0.0006),
    2.0: (0.5101, 0.2562, 0.0633, 0.0154, 0.0039, 0.0010),
    5.0: (0.5745, 0.2881, 0.0716, 0.0182, 0.0045, 0.0011),
}


def means(x_t: Tensor, t: float, pools: Tensor, own: Tensor | None) -> Tensor:
    """Posterior mean of every number x_t, (count,), over its own pool, (count, size)."""

    def one(x: Tensor, pool: Tensor, image: Tensor | None) -> Tensor:
        level = x.new_full((1,), t)
        image = None if image is None else image.reshape(1, 1)
        return posterior_mean(x.reshape(1, 1), level, pool[:, None], image).mean[0, 0]

    dims = (0, 0, None if own is None else 0)
    return torch.func.vmap(one, in_dims=dims)(x_t, pools, own)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", VARIANCES)
def test_variance_table(t: float) -> None:
    for size, expected in zip(SIZES, VARIANCES[t], strict=True):
        count = 20_000 if size < 200 else 6000
        x0 = draws(count, 3).flatten()
        x_t = x0 + t * normal(count, seed=4)
        pools = draws(count * (size - 1), 5).reshape(count, size - 1)
        mean = means(x_t, t, pools, x0)
        exact = denoised(x_t, torch.full_like(x_t, t))
        found = (mean - exact).square().mean().item()
        # A tenth, and half a unit in the last place of the table.
        digit = 0.5e-5 if expected < 0.001 and t < 0.6 else 0.5e-4
        assert abs(found - expected) < 0.1 * expected + digit, (size, found)
        single = variance(x_t, torch.full_like(x_t, t)).mean().item()
        assert found <= 1.05 * single
        if size == 1:
            assert torch.equal(mean, x0)
            assert found == pytest.approx(single, rel=0.05)


def posterior_samples(x: float, t: float, count: int) -> Tensor:
    """Images that x at level t may come from, (count,)."""
    at = torch.tensor([[x]], dtype=torch.float64)
    var, log_joint, offset = DATA._parts(at, t)
    which = torch.multinomial(log_joint.softmax(1)[0], count, True, generator=stream(6))
    mean = (DATA.means + (DATA.stds**2 / var[0])[:, None] * offset[0])[:, 0]
    std = (DATA.stds**2 * t**2 / var[0]).sqrt()
    return mean[which] + std[which] * normal(count, seed=7)


def test_unbiased_with_the_own_image_and_biased_without() -> None:
    x, t, count = 0.2, 0.6, 200_000
    own = posterior_samples(x, t, count)
    x_t = torch.full((count,), x, dtype=torch.float64)
    exact = denoised(x_t[:1], torch.tensor([t], dtype=torch.float64)).item()
    assert exact == pytest.approx(0.4283, abs=1e-4)
    for size, excluded in ((2, 0.3332), (4, 0.4017), (16, 0.4244)):
        pools = draws(count * size, 8).reshape(count, size)
        with_own = means(x_t, t, pools[:, 1:], own)
        error = 4 * with_own.std().item() / count**0.5
        assert with_own.mean().item() == pytest.approx(exact, abs=error)
        without = means(x_t, t, pools, None).mean().item()
        assert without == pytest.approx(excluded, abs=5e-3)
        assert exact - without > 0.003


def test_weights_by_hand() -> None:
    x, t = torch.tensor([[0.3, -0.2]]), torch.tensor([0.7])
    images = torch.tensor([[0.1, 0.4], [-0.5, 0.2], [0.9, 0.9]])
    logs = torch.tensor([-((x[0] - y) ** 2).sum() / (2 * 0.49) for y in images])
    weights = logs.softmax(0)
    found = posterior_mean(x, t, images)
    torch.testing.assert_close(found.mean, weights[None] @ images)
    torch.testing.assert_close(found.sample_size, 1 / (weights**2).sum()[None])
    # It does not matter which of them comes as the row's own image.
    again = posterior_mean(x, t, images[1:], own=images[:1])
    torch.testing.assert_close(again.mean, found.mean)
    torch.testing.assert_close(again.sample_size, found.sample_size)
    two = posterior_mean(x, t, images, allowed=torch.tensor([[True, False, True]]))
    kept = logs[[0, 2]].softmax(0)
    torch.testing.assert_close(two.mean, kept[None] @ images[[0, 2]])


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("pixels", [1, 3072])
def test_lowest_and_highest_level(pixels: int, marked: bool) -> None:
    images = torch.rand(32, pixels, 1, 1, generator=stream(9)) * 2 - 1
    noise = torch.randn(images.shape, generator=stream(10))
    where = torch.full((32,), marked)
    for t, tiny in ((0.002, True), (80.0, False)):
        level = torch.full((32,), t)
        x_t = images + t * noise
        allowed = ~torch.eye(32, dtype=torch.bool)
        found = posterior_mean(x_t, level, images, images, allowed, where)
        assert found.mean.isfinite().all()
        exact = posterior_mean(x_t.double(), level.double(), images.double())
        if tiny and pixels > 1:  # one image has all the weight
            assert torch.equal(found.mean, images)
            assert torch.equal(found.sample_size, torch.ones(32))
        if not tiny and pixels == 1:  # all have the same weight
            mean = images.mean(0).expand_as(images)
            torch.testing.assert_close(found.mean, mean, atol=0.02, rtol=0)
            assert found.sample_size.min() > 31.9
        tolerance = 1e-5 if marked or not tiny or pixels > 1 else 0.05
        torch.testing.assert_close(found.mean.double(), exact.mean, atol=tolerance, rtol=0)
        assert (found.sample_size >= 1 - 1e-6).all()


def test_log_weights_of_any_size() -> None:
    # Without subtracting the largest, exp would underflow for every image.
    x = torch.full((1, 3072), 100.0)
    images = torch.stack([torch.zeros(3072), torch.full((3072,), 0.5)])
    found = posterior_mean(x, torch.tensor([1e-4]), images)
    assert torch.equal(found.mean, images[1:])


def test_float64_rows_are_exact_where_float32_cancels() -> None:
    # Neighbours 1e-3 apart at t = 1e-3: the inner products, near 3072, differ by 1e-3.
    base = torch.rand(1, 3072, generator=stream(11)) * 0.2 + 0.9
    step = torch.randn(16, 3072, generator=stream(12)) * (1e-3 / 3072**0.5)
    images = base + step
    t = torch.full((16,), 1e-3)
    x_t = images + t[:, None] * torch.randn(16, 3072, generator=stream(13))
    # The reference: differences of images, without any cancellation.
    gaps = (x_t.double()[:, None] - images.double()) ** 2
    weights = (-gaps.sum(-1) / (2 * t.double() ** 2)[:, None]).softmax(1)
    exact = weights @ images.double()
    marked = torch.arange(16) < 8
    found = posterior_mean(x_t, t, images, float64=marked)
    error = (found.mean - exact).norm(dim=1) / (images - base).norm(dim=1).mean()
    assert error[:8].max() < 2e-3  # the rounding of the answer to float32
    assert error[8:].mean() > 0.05
    size = 1 / (weights**2).sum(1)
    torch.testing.assert_close(found.sample_size[:8].double(), size[:8], rtol=1e-4, atol=0)
    assert size.mean() > 1.3


def test_own_image_alone_comes_back() -> None:
    images = torch.randn(4, 2, 3, 3, generator=stream(14))
    for where in (None, torch.tensor([True, False, True, False])):
        found = posterior_mean(images, torch.ones(4), images[:0], images, None, where)
        assert torch.equal(found.mean, images)
        assert torch.equal(found.sample_size, torch.ones(4))


def test_large_sets_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images, x = torch.randn(2, 37, 5, generator=stream(15), dtype=torch.float64)
    t = torch.logspace(-2, 1, 37, dtype=torch.float64)
    allowed = torch.rand(37, 37, generator=stream(16)) < 0.3
    allowed[:, :10] = False  # whole parts without any weight
    whole = posterior_mean(x, t, images, images, allowed)
    monkeypatch.setattr(score_identity, "_CHUNK_VALUES", 20)
    parts = posterior_mean(x, t, images, images, allowed)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(parts.sample_size, whole.sample_size, rtol=1e-12, atol=0)
    row = allowed.any(1)
    alone = posterior_mean(x, t, images, None, allowed)
    assert torch.equal(alone.mean.isfinite().all(1), row)


def test_step_towards_the_mean() -> None:
    x0, noise, mean = torch.randn(3, 6, 1, 4, 4, generator=stream(17), dtype=torch.float64)
    t = torch.linspace(0.5, 20, 6, dtype=torch.float64)
    r = t * torch.tensor([0, 0, 0.1, 0.5, 0.9, 1])
    x_t = x0 + t.reshape(-1, 1, 1, 1) * noise
    # Towards the one image that x_t was made of: the same noise at a lower level.
    same = moved(x_t, t, r, x0)
    torch.testing.assert_close(same, x0 + r.reshape(-1, 1, 1, 1) * noise, rtol=1e-12, atol=1e-12)
    x_r = moved(x_t, t, r, mean)
    assert torch.equal(x_r[:2], mean[:2])
    assert torch.equal(x_r[-1], x_t[-1])
    slope = (x_t - mean) / t.reshape(-1, 1, 1, 1)
    expected = x_t + (r - t).reshape(-1, 1, 1, 1) * slope
    torch.testing.assert_close(x_r, expected, rtol=1e-12, atol=1e-12)


def test_bad_arguments_are_named() -> None:
    x, t = torch.zeros(2, 3), torch.ones(2)
    for arguments, message in (
        ((x, t, torch.zeros(5, 4)), "references have shape"),
        ((x, torch.ones(3), x), "t has shape"),
        ((x, t, x, torch.zeros(1, 3)), "own has shape"),
        ((x, t, x, None, torch.ones(2, 3, dtype=torch.bool)), "allowed has shape"),
        ((x, t, x[:0]), "no reference image"),
    ):
        with pytest.raises(ValueError, match=message):
            posterior_mean(*arguments)
