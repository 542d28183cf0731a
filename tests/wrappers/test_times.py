"""Times of other codebases against sigma."""

import math

import pytest
import torch

from ctm_fast.noise_embeddings import DiscreteTime
from ctm_fast.wrappers import TIMES, DiffusersTime, FlowMatchingTime, FlowTime, TrigFlowTime
from ctm_fast.wrappers.times import ADMTime, _log_levels

from .hosts import HOSTS, SD, TABLE, VELOCITY_TIMES

SIGMAS = torch.tensor([0.02, 0.3, 1.0, 7.0, 79.0], dtype=torch.float64)


def made(name):
    return TrigFlowTime(SD) if name == "trigflow" else TIMES[name]()


def close(a, b, rtol=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=rtol, atol=1e-15)


@pytest.mark.parametrize("name", HOSTS)
def test_time_scale_and_their_inverse(name):
    time, host = made(name), HOSTS[name]
    t = time.time(SIGMAS)
    close(host.sigma(t), SIGMAS)
    close(time.sigma(t), SIGMAS)
    alpha, beta = host.path(t)
    close(time.scale(SIGMAS), alpha)
    close(beta / alpha, SIGMAS)
    low, high = time.range
    assert 0 < low < high < math.inf
    assert time.time(SIGMAS.float()).dtype == torch.float32


@pytest.mark.parametrize("name", VELOCITY_TIMES)
def test_gaps_do_not_cancel(name):
    time = made(name)
    near = SIGMAS * (1 - 1e-9)
    close(time.gap(SIGMAS, SIGMAS / 3), time.time(SIGMAS / 3) - time.time(SIGMAS), 1e-9)
    slope = (time.time(SIGMAS * (1 + 1e-5)) - time.time(SIGMAS * (1 - 1e-5))) / (2e-5 * SIGMAS)
    close(time.gap(SIGMAS, near) / (near - SIGMAS), slope, 1e-5)


def test_the_two_flow_directions_are_mirror_images():
    close(FlowTime().time(SIGMAS), 1 - FlowMatchingTime().time(SIGMAS))
    assert float(FlowTime().time(torch.tensor(1e6))) == pytest.approx(1, abs=2e-6)
    assert float(FlowMatchingTime().time(torch.tensor(1e-6))) == pytest.approx(1, abs=2e-6)


def test_trigflow_starts_where_scm_does():
    assert float(TrigFlowTime().time(torch.tensor(80.0))) == pytest.approx(1.56455, abs=1e-5)
    assert float(TrigFlowTime().sigma(torch.tensor(1.1))) == pytest.approx(0.982, abs=1e-3)


def test_diffusers_timesteps_are_whole_on_the_table_and_stay_inside_it():
    time = DiffusersTime()
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-2)):
        index = torch.tensor([0, 1, 500, 998, 999])
        torch.testing.assert_close(
            time.time(TABLE[index].to(dtype)), index.to(dtype), rtol=0, atol=tolerance
        )
    assert time.time(torch.tensor([1e-6, 1e6])).tolist() == [0, 999]
    assert time.range == (float(TABLE[0]), float(TABLE[-1]))
    # Published: DDPM's last level is about 157, Stable Diffusion's about 14.6.
    assert time.range[1] == pytest.approx(157.4, abs=0.1)
    latent = DiffusersTime(DiscreteTime("scaled_linear", 1000, 0.00085, 0.012))
    assert latent.range[1] == pytest.approx(14.6, abs=0.02)
    with torch.inference_mode():
        _log_levels.cache_clear()
        time.time(SIGMAS)
    assert not _log_levels(time.table, torch.device("cpu")).is_inference()


def test_adm_is_the_preconditioning_of_the_released_codes():
    sigma = torch.tensor([1.0, 80.0], dtype=torch.float64)
    precond = ADMTime(SD).precond("consistency", 0.002)
    close(precond.c_noise(sigma), [0.0, 250 * math.log(80)])
    close(precond.c_in(sigma), 1 / (sigma**2 + SD**2).sqrt())
    first = precond.denoise_coefficients(torch.tensor([0.002], dtype=torch.float64))
    close(torch.cat(first), [1.0, 0.0])
    assert ADMTime(SD).precond("denoiser", 0.002).sigma_data == SD
