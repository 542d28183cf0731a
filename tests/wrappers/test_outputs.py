"""Coefficients of every answer against exact functions, and identities between them."""

import pytest
import torch

from ctm_fast.precond import Epsilon as EpsilonPrecond
from ctm_fast.precond import Preconditioning
from ctm_fast.precond import VPrediction as VPrecond
from ctm_fast.solvers.heun import heun_solve
from ctm_fast.wrappers import DiffusersTime, FlowTime, RawSigma, TrigFlowTime, wrap
from ctm_fast.wrappers.outputs import (
    AverageVelocity,
    Convention,
    Epsilon,
    Image,
    Rotation,
    State,
    Velocity,
    VPrediction,
)

from .hosts import DATA, HOSTS, SD

SIGMAS = torch.tensor([0.05, 0.7, 4.0, 60.0], dtype=torch.float64)


def close(pair, other):
    for a, b in zip(pair, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_an_average_over_nothing_is_the_velocity():
    near = SIGMAS * (1 - 1e-7)
    for time in (RawSigma(), FlowTime(), TrigFlowTime(SD)):
        P, Q = AverageVelocity().jump(time, SIGMAS, near)
        step = near / SIGMAS  # x_s = (s/t) x + (1 - s/t) D
        on_x, on_u = Velocity().denoise(time, SIGMAS)
        torch.testing.assert_close(P, step + (1 - step) * on_x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(Q, (1 - step) * on_u, rtol=1e-6, atol=0)


def test_trigflow_rotates_to_the_consistency_function():
    time, zero = TrigFlowTime(SD), torch.full_like(SIGMAS, 1e-14)
    close(Rotation().jump(time, SIGMAS, zero), Velocity().denoise(time, SIGMAS))


def test_scalings_agree_with_those_of_the_preconditionings():
    close(
        Epsilon().denoise(DiffusersTime(), SIGMAS),
        Preconditioning(EpsilonPrecond()).denoise_coefficients(SIGMAS),
    )
    close(
        VPrediction().denoise(DiffusersTime(), SIGMAS),
        Preconditioning(VPrecond()).denoise_coefficients(SIGMAS),
    )


def test_a_convention_is_a_preconditioning():
    convention = Convention(TrigFlowTime(SD), Velocity(), SD)
    close([convention.c_in(SIGMAS)], [1 / (SIGMAS**2 + SD**2).sqrt()])
    close([convention.c_noise(SIGMAS)], [(SIGMAS / SD).atan()])
    assert Convention(FlowTime(), Image()).sigma_data == 0.5
    with pytest.raises(ValueError, match="cannot be saved"):
        convention.to_json()
    for output, call in (
        (State(), lambda o: o.denoise(RawSigma(), SIGMAS)),
        (Image(), lambda o: o.jump(RawSigma(), SIGMAS, SIGMAS)),
    ):
        with pytest.raises(NotImplementedError):
            call(output)


def test_the_teacher_solve_takes_a_wrapped_velocity():
    teacher = wrap(HOSTS["flow"].velocity, "velocity", "flow")
    sigmas = torch.tensor([8.0, 6.0, 4.5, 3.3, 2.4], dtype=torch.float64)
    x = 5 * torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    end = heun_solve(teacher, x, sigmas, torch.tensor([0, 1]), torch.tensor([4, 2]))
    exact = DATA.jump(x, sigmas[[0, 1]], sigmas[[4, 3]])
    torch.testing.assert_close(end, exact, rtol=2e-2, atol=2e-2)
