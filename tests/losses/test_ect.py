"""ECT: levels, the target at r = 0, both published losses, the boundary shift, training."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ctm_fast.denoiser import Denoiser
from ctm_fast.densities import LogNormal
from ctm_fast.gaps import ConstantGap, SigmoidGap
from ctm_fast.losses import ECT, Batch, Models, Norm, PseudoHuber, evaluate
from ctm_fast.losses.weightings import WEIGHTINGS
from ctm_fast.precond import EDM, Ect, Preconditioning
from ctm_fast.rng import stream
from tests.analytic import ConstantNet

from .tools import drawn

IMAGES = torch.randn(64, 1, 4, 4, generator=stream(1)) * 0.5
IMAGENET = ECT(
    density=LogNormal(-0.8, 1.6),
    gap=SigmoidGap(q=4, stages=4),
    distance=Norm(c=0.06),
    weighting="karras",
)


def consistency(number: float = 0.25) -> Denoiser:
    return Denoiser(ConstantNet(number), Preconditioning(EDM(0.5)), kind="consistency")


def jump(x: Tensor, t: Tensor, number: float = 0.25) -> Tensor:
    """f(x, t) of `consistency` by hand."""
    total = (t**2 + 0.25).reshape(-1, 1, 1, 1)
    return 0.25 / total * x + t.reshape(-1, 1, 1, 1) * 0.5 / total.sqrt() * number


def test_levels_are_the_published_ones() -> None:
    t, r = ECT().levels(200_000, stream(2), 0.0)
    assert t.dtype == r.dtype == torch.float64
    log = t.log()
    assert log.mean().item() == pytest.approx(-1.1, abs=0.02)
    assert log.std().item() == pytest.approx(2.0, abs=0.02)
    assert t.max() > 80  # not truncated
    for progress, stage in ((0.0, 0), (0.124, 0), (0.125, 1), (0.5, 4), (0.999, 7)):
        again, r = ECT().levels(200_000, stream(2), progress)
        assert torch.equal(again, t)
        assert torch.equal(r, SigmoidGap().r(t, stage))
        assert ((r >= 0) & (r < t)).all()


def by_hand(objective: ECT, batch: Batch, progress: float, c: float) -> Tensor:
    t = batch.draw["t"].to(batch.images)
    r = objective.gap.r(batch.draw["t"], objective.gap.stage(progress)).to(t)
    noise, x0 = batch.draw["noise"], batch.images
    target = jump(x0 + r.reshape(-1, 1, 1, 1) * noise, r)
    target = torch.where((r == 0).reshape(-1, 1, 1, 1), x0, target)
    difference = jump(x0 + t.reshape(-1, 1, 1, 1) * noise, t) - target
    squared = (difference**2).flatten(1).sum(1)
    weight = 1 / (t - r) if c == 0 else 1 / t**2 + 1 / 0.25
    return weight * ((squared + c**2).sqrt() - c)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.99])
@pytest.mark.parametrize(("objective", "c"), [(ECT(), 0.0), (IMAGENET, 0.06)])
def test_published_losses_by_hand(objective: ECT, c: float, progress: float) -> None:
    images = IMAGES.double()
    draw = objective.draw(64, (1, 4, 4), stream(3), progress)
    batch = Batch(images, None, {k: v.double() for k, v in draw.items()})
    models = Models(consistency().double())
    loss = evaluate(objective, batch, models, progress)["consistency"]
    torch.testing.assert_close(loss, by_hand(objective, batch, progress, c), rtol=1e-9, atol=1e-12)


def test_target_is_the_image_bit_by_bit_where_r_is_zero() -> None:
    objective = ECT()
    batch = drawn(objective, IMAGES)
    models = Models(consistency())
    objective.prepare(batch, models)
    draw = batch.draw
    zero = draw["r"] == 0
    assert 10 < zero.sum() < 64
    target = objective.target(draw["x_r"], draw["r"].float(), batch, models, 0.0)
    assert torch.equal(target[zero], IMAGES[zero])
    torch.testing.assert_close(target, jump(draw["x_r"], draw["r"].float()))
    assert not torch.equal(target[~zero], IMAGES[~zero])


def test_weights_by_hand() -> None:
    t = torch.tensor([0.1, 1.0, 80.0], dtype=torch.float64)
    r = torch.tensor([0.0, 0.6, 79.6875], dtype=torch.float64)
    models = Models(consistency())
    torch.testing.assert_close(ECT().weight(t, r, models), 1 / (t - r))
    torch.testing.assert_close(IMAGENET.weight(t, r, models), 1 / t**2 + 4)
    # Of the network's output, whose factor is c_out, the ImageNet weight makes 1.
    c_out = EDM(0.5).coefficients(t)[1]
    torch.testing.assert_close(IMAGENET.weight(t, r, models) * c_out**2, torch.ones_like(t))


def test_no_gradient_is_lost_at_distance_zero() -> None:
    # The student answers the image itself: distance 0, where the norm has no gradient.
    batch = drawn(ECT(), torch.zeros(8, 1, 4, 4))
    batch.draw["noise"] = torch.zeros(8, 1, 4, 4)
    student = consistency(0.0)
    for objective in (ECT(), IMAGENET, ECT(distance=PseudoHuber())):
        loss = evaluate(objective, batch, Models(student))["consistency"]
        assert torch.equal(loss, torch.zeros(8))
        loss.sum().backward()
        assert student.net.number.grad == 0


def test_trained_with_edm_scalings_and_evaluated_with_a_shifted_boundary() -> None:
    student = consistency()
    precond = replace(student.precond, inner=Ect(student.sigma_data, shift=0.003))
    exported = Denoiser(student.net, precond, kind="consistency")
    assert Preconditioning.from_json(precond.to_json()) == precond
    x = torch.randn(3, 1, 4, 4, generator=stream(4), dtype=torch.float64)
    at = exported.double()(x, 0.003)
    assert torch.equal(at, x)
    t = torch.tensor([0.821, 1.526, 80.0], dtype=torch.float64)
    change = 1 - precond.inner.coefficients(t)[1] / student.precond.inner.coefficients(t)[1]
    assert change[0].item() == pytest.approx(0.003 / 0.821, rel=1e-6)  # 0.4 %
    assert change[2] < 4e-5
    assert torch.equal(precond.c_in(t), student.precond.c_in(t))


def test_microbatches_give_the_same_losses() -> None:
    objective = ECT(gap=ConstantGap())
    batch, models = drawn(objective, IMAGES), Models(consistency())
    objective.prepare(batch, models)
    whole = objective.loss("consistency", batch, models)
    parts = [objective.loss("consistency", batch.slice(i, i + 8), models) for i in range(0, 64, 8)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=0)


def test_unknown_weighting() -> None:
    with pytest.raises(ValueError, match="unknown weighting 'gap'"):
        ECT(weighting="gap")
    assert "inverse_step" in WEIGHTINGS
