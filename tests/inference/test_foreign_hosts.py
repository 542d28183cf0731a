"""Calls of other code bases, on frozen networks; diffusers' with the library itself."""

import copy
import dataclasses
import pickle

import pytest
import torch

from ctm_fast.inference import freeze
from ctm_fast.inference.foreign_hosts import RAW_NETWORKS, ADMTrajectory, DiffusersNetwork
from ctm_fast.inference.foreign_module import call_of
from ctm_fast.models import net_from_config

from ..diffusers_models import FAMILIES, inputs, library, tiny
from ..models.tiny import ADM, SONG
from . import stand_ins as host


def test_the_calls_are_those_that_they_say():
    for kind in RAW_NETWORKS:
        assert kind.parameters_of_call == tuple(call_of_class(kind))
    assert len({kind.parameters_of_call for kind in RAW_NETWORKS}) == len(RAW_NETWORKS)


def call_of_class(kind):
    return call_of(kind.__new__(kind))


def test_classes_must_be_given_where_there_are_some():
    conditional = freeze(host.UNetModel(ADM), torch.float32)
    x, time = torch.randn(1, 2, 8, 8), torch.zeros(1)
    with pytest.raises(ValueError, match="y is missing, and the network has 3 classes"):
        conditional(x, time)
    plain = dataclasses.replace(ADM, label_dim=0)
    with pytest.raises(ValueError, match="y is given, and the network has no classes"):
        freeze(host.UNetModel(plain), torch.float32)(x, time, y=torch.zeros(1).long())


def test_a_second_time_needs_a_network_that_takes_it():
    made = ADMTrajectory(host.TrajectoryModel(ADM), net_from_config(ADM))
    x, time = torch.randn(1, 2, 8, 8), torch.zeros(1)
    with pytest.raises(ValueError, match="no destination embedding"):
        made(x, time, torch.zeros(1).long(), s=time)


@pytest.mark.parametrize("kind", [kind for kind in RAW_NETWORKS if kind is not DiffusersNetwork])
def test_random_calls_are_the_same_every_time_and_fit(kind):
    config = ADM if "adm" in kind.layouts else SONG
    two_times = not {"s", "noise_labels_s"}.isdisjoint(kind.parameters_of_call)
    net = net_from_config(dataclasses.replace(config, destination=two_times))
    made = kind(host.UNetModel(ADM), net)
    for first, second in zip(made.calls(2), made.calls(2), strict=True):
        answers = [made(*args, **named) for args, named in (first, second)]
        assert torch.equal(*answers) and len(answers[0]) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers(family):
    dtype, bound = (torch.bfloat16, 0.03) if family == "deeper" else (torch.float32, 1e-5)
    model = tiny(family)
    frozen, given = freeze(model, dtype), inputs(model)
    for time in (7, torch.tensor(300.5), torch.tensor([3, 700, 20])):
        expected = model(given["x"], time, given["labels"])
        found = frozen(given["x"], time, given["labels"])
        assert type(found) is type(expected) and found.sample.dtype == torch.float32
        assert (found.sample - expected.sample).norm() <= bound * expected.sample.norm()
    (alone,) = frozen(given["x"], time, given["labels"], return_dict=False)
    assert torch.equal(alone, found.sample)
    for twin in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert torch.equal(twin(given["x"], time, given["labels"]).sample, alone)
        assert twin.config.sample_size == 8 and twin.dtype == torch.float32


@pytest.mark.parametrize("family", ["ddpm", "consistency"])
def test_pipelines_of_diffusers(family):
    parts = library()
    options = {"num_inference_steps": 3, "output_type": "np", "batch_size": 2}
    if family == "ddpm":
        pipe = parts.DDPMPipeline(tiny(family, in_channels=3), parts.DDPMScheduler())
    else:
        scheduler = parts.CMStochasticIterativeScheduler()
        pipe = parts.ConsistencyModelPipeline(tiny(family), scheduler)
        options |= {"num_inference_steps": 2, "class_labels": [1, 2]}
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(generator=torch.Generator().manual_seed(0), **options).images
    pipe.unet = freeze(pipe.unet, torch.float32)
    found = pipe.to("cpu")(generator=torch.Generator().manual_seed(0), **options).images
    assert abs(found - expected).max() <= 1e-5


def test_diffusers_image_size_may_have_to_be_said():
    model = tiny("example", sample_size=None)
    with pytest.raises(ValueError, match=r"sample_size=None .* pass img_resolution"):
        freeze(model)
    assert freeze(model, torch.float32, img_resolution=16).unet.img_resolution == 16
    with pytest.raises(ValueError, match=r"\['eps'\] mean nothing"):
        freeze(model, img_resolution=16, eps=1e-3)
