"""What a likelihood is asked of: models, images, labels, batches."""

import types

import pytest
import torch

from ctm_fast import freeze, models
from ctm_fast.denoiser import Denoiser
from ctm_fast.likelihood import elbo, log_likelihood
from ctm_fast.likelihood.inputs import (
    batches,
    check_differentiable,
    checked_class_labels,
    checked_images,
    checked_model,
    outside_inference,
    sigma_data_of,
    sigma_range,
)
from ctm_fast.wrappers import ClassifierGuided, Guided, wrap
from tests.analytic import ConstantNet, Gaussian
from tests.likelihood.worlds import drawn, gaussian


def test_models():
    model = gaussian()
    assert checked_model(model) is model
    with pytest.raises(ValueError, match="kind 'consistency' has no score"):
        checked_model(Denoiser(ConstantNet(), kind="consistency"))
    with pytest.raises(ValueError, match=r"computes in torch\.bfloat16, too coarse"):
        checked_model(Denoiser(ConstantNet(), dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"computes in torch\.float16, too coarse"):
        checked_model(Denoiser(ConstantNet().half()))
    frozen = freeze(
        Denoiser(
            models.build(
                "digits", img_resolution=4, model_channels=32, channel_mult=(1,), num_blocks=1
            )
        )
    )
    with pytest.raises(ValueError, match="frozen model rounds more"):
        checked_model(frozen)
    with pytest.raises(ValueError, match="say what this is with kind="):
        checked_model(lambda x, t: x)


def test_a_classifier_has_no_trace():
    """A small weight would pass the check of the gradient and give a wrong likelihood."""

    def classifier(x, sigma):
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)

    guided = ClassifierGuided(gaussian(), classifier, weight=0.02)
    for model in (guided, Guided(guided, gaussian(0.6))):
        with pytest.raises(ValueError, match="no gradient flows through a classifier's part"):
            log_likelihood(model, drawn(2, 1, 4, 4), [0, 1])
    check_differentiable(ClassifierGuided(gaussian(), classifier, weight=0.0))
    assert elbo(guided, drawn(2, 1, 4, 4), [0, 1], samples=1).isfinite().all()


def test_ranges_and_sigma_data():
    assert sigma_range(gaussian()) == (0.002, 80.0)
    flow = wrap(lambda x, t: x, kind="velocity", time="flow", shape=(1, 4, 4))
    assert sigma_range(flow) == (0.002, 80.0) != (flow.sigma_min, flow.sigma_max)
    assert sigma_data_of(gaussian()) == 0.5
    assert sigma_data_of(object()) == 0.5
    assert sigma_data_of(types.SimpleNamespace(sigma_data=0.7)) == 0.7


def test_images():
    model, x = gaussian(), drawn(2, 1, 4, 4).float()
    found = checked_images(model, x, torch.float64)
    assert found.dtype == torch.float64 and torch.equal(found, x.double())
    found.zero_()
    assert x.abs().sum() > 0
    with torch.inference_mode():
        assert not checked_images(model, drawn(2, 1, 4, 4), torch.float64).is_inference()
    unknown = wrap(Gaussian(), kind="denoiser")
    assert checked_images(unknown, drawn(2, 7), torch.float64).shape == (2, 7)
    for images, dtype, message in (
        (x[0], torch.float64, "need"),
        (x[:, :, :3], torch.float64, r"need \(batch, \*\(1, 4, 4\)\)"),
        (x.long(), torch.float64, "images are torch.int64"),
        (x.tolist(), torch.float64, "images are list"),
        (x / 0, torch.float64, "not finite"),
        (x, torch.bfloat16, "dtype is torch.bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_images(model, images, dtype)


def test_labels():
    free = types.SimpleNamespace(label_dim=0)
    model = types.SimpleNamespace(label_dim=3)
    assert checked_class_labels(free, None, 2) is None
    assert checked_class_labels(model, 2, 2).tolist() == [2, 2]
    with torch.inference_mode():
        labels = torch.tensor([0, 2])
    assert not checked_class_labels(model, labels, 2).is_inference()
    assert torch.equal(checked_class_labels(model, torch.zeros(2, 3), 2), torch.zeros(2, 3))
    for wrong, message in (
        (None, r"give one label in \[0, 3\) per image, or weights \(2, 3\)"),
        ([0, 3], "label 3 is outside"),
        ([0, 1, 2], r"need \(2,\)"),
        (torch.zeros(2, 4), r"need \(2, 3\)"),
        (torch.zeros(2), "must be integers"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_class_labels(model, wrong, 2)
    with pytest.raises(ValueError, match="unconditional"):
        checked_class_labels(free, [0, 0], 2)


def test_batches(capsys):
    assert list(batches(5, 2, False)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert capsys.readouterr().err == ""
    assert list(batches(2, 9, True)) == [slice(0, 2)]
    assert "2/2" in capsys.readouterr().err
    for size in (0, 2.0, True):
        with pytest.raises(ValueError, match="batch_size is"):
            list(batches(3, size, False))


def test_mode_and_gradients_inside():
    model = gaussian().train()
    with torch.inference_mode(), outside_inference(model):
        assert not model.training and not torch.is_inference_mode_enabled()
    assert model.training and model.net.training
