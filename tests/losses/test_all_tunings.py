"""Short runs of ECT and SCT against the exact map: error, gradient noise, phases."""

import pytest
import torch

from ctm_fast.gaps import SigmoidGap
from ctm_fast.losses import ECT, SCT

from . import oracle
from .tuning import OPTIONS, gradient_noise, tuned


def test_ect_finds_the_exact_map() -> None:
    assert oracle.map_error(tuned(ECT(**OPTIONS))) < 0.25


@pytest.mark.slow
def test_ect_comes_closer_with_more_steps_and_smaller_gaps() -> None:
    objective = ECT(**{**OPTIONS, "gap": SigmoidGap(smooth=True)})
    assert oracle.map_error(tuned(objective, steps=3000, size=256, lr=3e-3)) < 0.15


def test_larger_sets_make_less_gradient_noise() -> None:
    student = tuned(ECT(**OPTIONS))
    for progress in (0.1, 0.5, 0.95):
        sizes = [ECT(**OPTIONS), *(SCT(references=n, **OPTIONS) for n in (1, 4, 16, 256))]
        ect, alone, *others = (gradient_noise(o, student, progress) for o in sizes)
        assert alone == pytest.approx(ect, rel=1e-3)
        for before, after in zip([ect, *others], others, strict=False):
            assert after < 0.8 * before
    assert others[-1] < 0.15 * ect


def test_sct_comes_closer_than_ect() -> None:
    ect, sct = (oracle.map_error(tuned(o(**OPTIONS))) for o in (ECT, SCT))
    assert sct < 0.16
    assert sct < 0.9 * ect


@pytest.mark.slow
@pytest.mark.parametrize("references", [16, 256])
def test_sct_comes_closer_with_more_steps_and_smaller_gaps(references: int) -> None:
    objective = SCT(references=references, **{**OPTIONS, "gap": SigmoidGap(smooth=True)})
    assert oracle.map_error(tuned(objective, steps=3000, size=256, lr=3e-3)) < 0.11


def test_short_training_in_phases_finds_the_exact_map() -> None:
    # One phase above 1 and one below: one call of the network for each.
    edge = 1.0
    student = tuned(SCT(edges=(edge,), **OPTIONS))
    share = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    x = (80 * torch.special.ndtri(share)).reshape(-1, 1, 1, 1) + 0.12
    with torch.no_grad():
        ratio = edge / 80
        at_edge = ratio * x + (1 - ratio) * student(x.float(), 80.0)
        image = student(at_edge.float(), edge)
    middle = (at_edge - oracle.moved(x, 80.0, edge)).square().mean().sqrt()
    assert middle < 0.1
    assert (image - oracle.moved(x, 80.0)).square().mean().sqrt() < 0.16
