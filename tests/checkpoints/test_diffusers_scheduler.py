"""Schedulers of diffusers say what a network means."""

import contextlib
import inspect
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctm_fast.checkpoints.diffusers_scheduler import (
    _SAMPLING,
    SCHEDULERS,
    from_scheduler,
    of_kind,
    without_scheduler,
)
from ctm_fast.models import ADMConfig
from ctm_fast.noise_embeddings import DiscreteTime
from ctm_fast.precond import CM, EDM, Epsilon, Plain, Preconditioning, VPrediction
from tests.diffusers_models import library

DDPM = {"_class_name": "DDPMScheduler"}
CONSISTENCY = {"_class_name": "CMStochasticIterativeScheduler"}
DISCRETE = [name for name, options in SCHEDULERS.items() if "beta_start" in options]


def options_of(scheduler):
    """What save_pretrained writes."""
    return json.loads(scheduler.to_json_string())


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "CTMScheduler"])
def test_every_class_is_known_with_its_defaults_and_options(name):
    scheduler = getattr(library(), name)()
    expected = from_scheduler({"_class_name": name})
    assert from_scheduler(options_of(scheduler)) == expected
    options = inspect.signature(type(scheduler).__init__).parameters
    defaults = {key: options[key].default for key in SCHEDULERS[name] if key in options}
    assert defaults.items() <= SCHEDULERS[name].items()


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("name", DISCRETE)
def test_levels_are_those_of_the_scheduler(name):
    options = {"beta_start": 0.001, "beta_end": 0.015, "beta_schedule": "scaled_linear"}
    scheduler = getattr(library(), name)(num_train_timesteps=50, **options)
    role = from_scheduler(options_of(scheduler))
    abar = scheduler.alphas_cumprod.double()
    sigmas = role.precond.noise_embedding.sigmas
    assert torch.allclose(sigmas, ((1 - abar) / abar).sqrt(), rtol=1e-5)
    assert role.kind == "denoiser"
    assert (role.sigma_min, role.sigma_max) == (sigmas[0], sigmas[-1])


def test_cosine_levels():
    scheduler = library().DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    role = from_scheduler(options_of(scheduler))
    # 1 - abar of the first levels has few digits left in diffusers' float32.
    abar = (1 - scheduler.betas.double()).cumprod(0)
    expected = ((1 - abar) / abar).sqrt()
    assert torch.allclose(role.precond.noise_embedding.sigmas, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("prediction", "inner"),
    [("epsilon", Epsilon()), ("v_prediction", VPrediction()), ("sample", Plain(1.0))],
)
def test_predictions(prediction, inner):
    role = from_scheduler({**DDPM, "prediction_type": prediction, "num_train_timesteps": 10})
    assert role.precond == Preconditioning(inner, noise_embedding=DiscreteTime(steps=10))


def test_consistency_models():
    role = from_scheduler({**CONSISTENCY, "sigma_min": 0.01, "sigma_max": 50, "sigma_data": 1})
    assert role.precond == Preconditioning(CM(1.0, 0.01), noise_embedding="log_250")
    assert (role.kind, role.sigma_min, role.sigma_max) == ("consistency", 0.01, 50.0)
    teacher = of_kind(role, "denoiser")
    assert teacher.precond == Preconditioning(EDM(1.0), noise_embedding="log_250")
    assert of_kind(role, "consistency") == role


def test_edm():
    role = from_scheduler({"_class_name": "EDMEulerScheduler", "sigma_data": 1.0})
    assert (role.kind, role.precond) == ("denoiser", Preconditioning(EDM(1.0)))


def test_our_own_scheduler():
    own = Preconditioning(EDM(0.7), noise_embedding="log_250")
    options = {"_class_name": "CTMScheduler", "gamma": 0.5, "s_noise": 1.0}
    assert from_scheduler(options).precond.inner == CM()
    assert from_scheduler({**options, "preconditioning": own.to_json()}).precond == own
    with pytest.raises(ValueError, match="kind='trajectory' is not supported"):
        from_scheduler({**options, "kind": "trajectory"})
    for wrong in ({"inner": 3}, [1], "edm", {"inner": {"name": "os"}, "outer": 1}):
        with pytest.raises(ValueError, match="CTMScheduler: "):
            from_scheduler({**options, "preconditioning": wrong})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the scheduler None is not supported; supported are"),
        ({"_class_name": ["DDPMScheduler"]}, r"the scheduler \['DDPMScheduler'\]"),
        ({"_class_name": "os.system"}, "the scheduler 'os.system' is not supported"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({**DDPM, "beta_schedule": "sigmoid"}, "DDPMScheduler: beta_schedule='sigmoid'"),
        ({**DDPM, "prediction_type": "flow_prediction"}, "prediction_type='flow_prediction'"),
        ({**DDPM, "trained_betas": [0.1]}, r"trained_betas=\[0.1\]"),
        ({**DDPM, "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=True"),
        ({**DDPM, "use_flow_sigmas": True}, "use_flow_sigmas=True"),
        ({**DDPM, "timestep_type": "continuous"}, "timestep_type='continuous'"),
        ({**DDPM, "num_train_timesteps": 10.0}, "num_train_timesteps must be an integer"),
        ({**DDPM, "num_train_timesteps": 10**9}, "DDPMScheduler: steps must be in"),
        ({**DDPM, "beta_end": "0.02"}, "beta_end must be a finite number, got '0.02'"),
        ({**DDPM, "beta_end": 2.0}, "DDPMScheduler: beta_end must be below 1"),
        ({**CONSISTENCY, "sigma_min": 0}, "need 0 < sigma_min < sigma_max"),
        ({**CONSISTENCY, "sigma_max": float("inf")}, "sigma_max must be a finite number"),
        ({**CONSISTENCY, "sigma_data": -1}, "sigma_data must be positive"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"},
         "EDMEulerScheduler: prediction_type='v_prediction' is not supported"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        from_scheduler(options)


def test_sampling_options_are_not_options_that_matter():
    names = _SAMPLING.split()
    assert len(set(names)) == len(names)
    assert not {key for options in SCHEDULERS.values() for key in options} & set(names)


def test_networks_without_a_scheduler():
    openai, ddpm = ADMConfig(), ADMConfig(resampling="conv", adaptive_scale=False)
    for config, kind, expected, inner in (
        (openai, None, "consistency", CM()),
        (openai, "denoiser", "denoiser", EDM()),
        (ddpm, None, "denoiser", Epsilon()),
        (ddpm, "consistency", "consistency", CM()),
    ):
        role, note = without_scheduler(config, kind)
        assert (role.kind, role.precond.inner) == (expected, inner)
        assert note.startswith("there is no scheduler: taken for ")


OPTIONS = sorted({key for options in SCHEDULERS.values() for key in options} | {"clip_sample"})
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 64)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["epsilon", "linear", "scaled_linear", "squaredcos_cap_v2"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(SCHEDULERS)),
    st.dictionaries(st.sampled_from(OPTIONS) | st.text(max_size=4), VALUES, max_size=3),
)
def test_any_json_value_is_refused_or_understood(name, changes):
    with contextlib.suppress(ValueError):
        from_scheduler({"_class_name": name, **changes})
