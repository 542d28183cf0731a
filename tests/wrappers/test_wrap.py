"""`wrap`: every kind in every time is the exact model, and what is refused."""

import logging
import types

import pytest
import torch
from torch import nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.noise_embeddings import DiscreteTime
from ctm_fast.wrappers import TIMES, DiffusersTime, TrigFlowTime, wrap

from ..analytic import GaussianNet
from ..sampler.worlds import World, unet_model
from .hosts import ADM, DATA, HOSTS, SD, VELOCITY_TIMES, Net, OneHotNet, seeded

X = 5 * torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
SIGMA = torch.tensor([0.05, 0.9, 7.0, 75.0], dtype=torch.float64)
SIGMA_TO = torch.tensor([0.02, 0.9, 0.3, 0.02], dtype=torch.float64)
DENOISERS = [
    *[("denoiser", time, "image") for time in HOSTS],
    *[("denoiser", time, "epsilon") for time in HOSTS],
    *[("velocity", time, None) for time in VELOCITY_TIMES],
    ("denoiser", "diffusers", "v"),
    ("denoiser", "diffusers", "v_prediction"),
    ("denoiser", "diffusers", "sample"),
    ("denoiser", "trigflow", "F"),
    ("denoiser", "adm", None),
]
JUMPS = [
    *[("trajectory", time, None) for time in (*HOSTS, "adm")],
    *[("average_velocity", time, None) for time in VELOCITY_TIMES],
    ("trajectory", "trigflow", "F"),
]


def rotated(y, t, s):
    """sCM's F of a flow map, from y_s = cos(t - s) y - sin(t - s) sd F."""
    host, state = HOSTS["trigflow"], y * SD
    same = (t == s).reshape(-1, 1, 1, 1)
    turn = torch.where(same, torch.ones_like(same, dtype=t.dtype), (t - s).reshape(-1, 1, 1, 1))
    F = (turn.cos() * state - host.trajectory(state, t, s)) / (turn.sin() * SD)
    return torch.where(same, host.velocity(y, t), F)


def model_of(kind, time, prediction=None, **options):
    if time == "adm":
        net = ADM(kind)
    elif (kind, prediction) == ("trajectory", "F"):
        net = rotated
    else:
        names = {None: kind, "image": kind, "sample": kind, "F": "velocity", "v_prediction": "v"}
        net = getattr(HOSTS[time], names.get(prediction, prediction))
    sd = {"sigma_data": SD} if time in ("adm", "trigflow") else {}
    return wrap(net, kind, time, prediction=prediction, **sd, **options)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind, time, prediction", DENOISERS)
def test_exact_denoisers(kind, time, prediction):
    model = model_of(kind, time, prediction)
    assert model.kind == "denoiser" and isinstance(model, Denoiser)
    close(model(X, SIGMA), DATA(X, SIGMA))
    close(model(X[:1], 0.9), DATA(X[:1], 0.9))
    close(model.score(X, SIGMA), DATA.score(X, SIGMA), 1e-6)
    # float32 states: epsilon is multiplied by sigma.
    close(model(X.float(), SIGMA).double(), DATA(X, SIGMA), 1e-3)


@pytest.mark.parametrize("kind, time, prediction", JUMPS)
def test_exact_jumps(kind, time, prediction):
    model = model_of(kind, time, prediction)
    assert model.kind == "trajectory"
    close(model.jump(X, SIGMA, SIGMA_TO), DATA.jump(X, SIGMA, SIGMA_TO))
    close(model.jump(X[:1], 7.0, 0.3), DATA.jump(X[:1], 7.0, 0.3))
    close(model(X, SIGMA), DATA(X, SIGMA), 1e-7)
    close(model.jump(X.float(), SIGMA, SIGMA_TO).double(), DATA.jump(X, SIGMA, SIGMA_TO), 2e-3)


@pytest.mark.parametrize("time", (*HOSTS, "adm"))
def test_exact_consistency_functions(time):
    model = model_of("consistency", time, "F" if time == "adm" else "image")
    end = 0.002 if time == "adm" else 0.0
    close(model(X, SIGMA), DATA.jump(X, SIGMA, end))
    close(model.jump(X, SIGMA, model.sigma_min), DATA.jump(X, SIGMA, end))


def test_scm_network():
    def F(y, t):
        """f = cos(t) x_t - sd sin(t) F(x_t / sd, t)."""
        state = y * SD
        turn = t.reshape(-1, 1, 1, 1)
        return (turn.cos() * state - HOSTS["trigflow"].consistency(state, t)) / (SD * turn.sin())

    model = wrap(F, "consistency", "trigflow", prediction="F", sigma_data=SD)
    close(model(X, SIGMA), DATA.jump(X, SIGMA, 0.0))


def test_own_schedule_and_own_call():
    table = DiscreteTime("scaled_linear", 1000, 0.00085, 0.012)
    time = DiffusersTime(table)
    seen = []

    def net(x, t):
        seen.append(t)
        return torch.zeros_like(x)

    model = wrap(net, "denoiser", time)
    assert (model.sigma_min, model.sigma_max) == (table.sigma_min, table.sigma_max)
    model(X, table.sigmas[[0, 10, 500, 999]])
    close(seen[0], torch.tensor([0.0, 10, 500, 999], dtype=torch.float64))

    def meanflow(z, t, h):
        return HOSTS["flow"].average_velocity(z, t, t - h)

    own = wrap(meanflow, "average_velocity", "flow", call=lambda net, x, t, s: net(x, t, t - s))
    close(own.jump(X, SIGMA, SIGMA_TO), DATA.jump(X, SIGMA, SIGMA_TO))
    plain = wrap(DATA, "denoiser", call=lambda net, x, t: net(x, t))
    close(plain(X, SIGMA), DATA(X, SIGMA))


@pytest.mark.parametrize("time", TIMES.names())
def test_ranges(time):
    model = model_of("denoiser" if time == "adm" else "consistency", time)
    expected = {
        "diffusers": (pytest.approx(0.01, rel=1e-2), pytest.approx(157.4, rel=1e-3)),
        "flow": (1e-6, 1e6),
        "flow_matching": (1e-6, 1e6),
    }
    assert (model.sigma_min, model.sigma_max) == expected.get(time, (0.002, 80.0))
    own = model_of("denoiser", time, sigma_min=0.05, sigma_max=60)
    assert (own.sigma_min, own.sigma_max) == own.ode_range == (0.05, 60)


def test_models_come_back_unchanged():
    for model in (GaussianNet().denoiser(), unet_model(), World()):
        assert wrap(model) is model and wrap(model, model.kind) is model
    model = wrap(DATA, "denoiser", call=lambda net, x, t: net(x, t))
    assert wrap(model) is model
    for option in ({"kind": "consistency"}, {"shape": (1, 4, 4)}, {"time": "edm"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}.*leave them out"):
            wrap(unet_model(), **option)


def test_edm_networks_are_recognised():
    class EDMPrecond(OneHotNet):
        sigma_min, sigma_max, img_channels, img_resolution, label_dim = 0, float("inf"), 3, 4, 5

        def round_sigma(self, sigma):
            return sigma

    model = wrap(seeded(EDMPrecond, 5).eval())
    assert (model.kind, model.sigma_min, model.sigma_max) == ("denoiser", 0.002, 80.0)
    assert (model.label_dim, model.img_shape, model.net.one_hot) == (5, (3, 4, 4), True)
    ECMPrecond = type("ECMPrecond", (EDMPrecond,), {"sigma_min": 0.003})
    model = wrap(seeded(ECMPrecond, 5))
    assert (model.kind, model.sigma_min) == ("consistency", 0.003)
    assert wrap(seeded(EDMPrecond, 5), "consistency").kind == "consistency"
    with pytest.raises(ValueError, match="kind="):
        wrap(seeded(type("NewPrecond", (EDMPrecond,), {}), 5))


def test_what_it_took_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="ctm_fast"):
        wrap(seeded(Net), "velocity", "flow", shape=(3, 4, 4))
    assert len(caplog.records) == 1 and "Net as velocity in flow time" in caplog.text
    assert "sigma in [1e-06, 1e+06]" in caplog.text and "no classes" in caplog.text


UNET2D = type("UNet2DModel", (Net,), {})
UNET2D.config = types.SimpleNamespace(sample_size=8, in_channels=3, num_class_embeds=None)


@pytest.mark.parametrize(
    "net, options, named",
    [
        (lambda x, t: x, {}, "average_velocity.*x_t - x_r"),
        (nn.Identity(), {"kind": "flow"}, "unknown kind 'flow'"),
        (lambda x, t: x, {"kind": "velocity"}, "time=.*flow_matching"),
        (lambda x, t: x, {"kind": "denoiser", "time": "vp"}, "unknown time convention 'vp'"),
        (lambda x, t: x, {"kind": "denoiser", "time": 3}, "time is 3"),
        (lambda x, t: x, {"kind": "velocity", "time": "diffusers"}, "means nothing"),
        (lambda x, t: x, {"kind": "velocity", "time": "adm"}, "means nothing"),
        (lambda x, t, r: x, {"kind": "average_velocity", "time": "diffusers"}, "means nothing"),
        (lambda x, t: x, {"kind": "denoiser", "prediction": "v"}, "prediction is 'v'"),
        (lambda x, t: x, {"kind": "denoiser", "time": "adm", "prediction": "image"}, "'image'"),
        (
            lambda x, t: x,
            {"kind": "velocity", "time": "flow", "prediction": "epsilon"},
            "means nothing",
        ),
        (lambda x, t, s: x, {"kind": "trajectory", "prediction": "F"}, "means nothing"),
        (lambda x, t: x, {"kind": "trajectory"}, "second time"),
        (lambda x, t, s: x, {"kind": "denoiser"}, "'s'"),
        (lambda x, t: x, {"kind": "denoiser", "label_dim": 3}, "labels"),
        (lambda x, t: x, {"kind": "denoiser", "label_dim": -1}, "label_dim is -1"),
        (lambda x, t, y: x, {"kind": "denoiser", "label_dim": 3, "labels": "hot"}, "onehot"),
        (lambda x, t: x, {"kind": "denoiser", "shape": 32}, "shape is 32"),
        (lambda x, t: x, {"kind": "denoiser", "shape": (3, 0, 4)}, r"\(3, 0, 4\)"),
        (lambda x, t: x, {"kind": "denoiser", "sigma_min": 0}, "sigma_min=0"),
        (lambda x, t: x, {"kind": "denoiser", "sigma_max": float("inf")}, "sigma_max=inf"),
        (seeded(UNET2D), {}, "DDPM pipeline"),
        (seeded(UNET2D), {"kind": "denoiser"}, "time="),
        (unet_model().net, {}, "Denoiser"),
        (3, {"kind": "denoiser"}, "cannot be called"),
    ],
)
def test_refused(net, options, named):
    with pytest.raises(ValueError, match=named):
        wrap(net, **options)


def test_explicit_time_objects():
    net = HOSTS["trigflow"].velocity
    model = wrap(net, "velocity", TrigFlowTime(SD))
    close(model(X, SIGMA), DATA(X, SIGMA))
    assert model.sigma_data == SD
