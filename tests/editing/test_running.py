"""The loop over batches, without an editor."""

import pytest
import torch

from ctm_fast.editing.running import in_batches, ordered, sampled
from ctm_fast.sampler import Sampler, noise_for
from ctm_fast.sampler.seeding import SeededNoise

from ..sampler.worlds import small_model, unet_model
from .worlds import sampler


@pytest.mark.parametrize("batch_size", [None, 2, 5])
@pytest.mark.parametrize("options", [dict(), dict(gamma=0.5), dict(method="heun")])
def test_the_model_itself_makes_the_samplers_images(options, batch_size) -> None:
    plain = sampler(steps=3, clip=False, batch_size=batch_size, **options)

    def make(model, rows, seeds, labels):
        x = 80 * noise_for(seeds, 0, (1, 4, 4), dtype=torch.float64)
        drawn = SeededNoise(seeds, plain.sigmas, x)
        assert len(range(5)[rows]) == len(seeds) and labels == {}
        return sampled(plain, model, x, plain.sigmas, labels, None, drawn)

    images = in_batches(plain, ordered(plain, 5, None, 2), make)
    assert torch.equal(images, plain(5, seed=2)) and images.dtype == torch.float64


@pytest.mark.parametrize("freeze", [True, False])
def test_the_running_model_is_the_frozen_copy_in_eval_mode(freeze) -> None:
    plain, seen = Sampler(unet_model(), freeze=freeze), []
    plain.model.train()

    def make(model, rows, seeds, labels):
        seen.append(model)
        assert not any(module.training for module in model.modules())
        assert torch.is_inference_mode_enabled()
        return torch.zeros(len(seeds), 2, 4, 4)

    in_batches(plain, ordered(plain, 1, None, 0), make)
    assert (seen[0] is plain.model) == (not freeze) and plain.model.training
    assert seen[0] is plain.running()


def test_labels_are_cut_with_the_images() -> None:
    plain, told = Sampler(small_model(label_dim=3), batch_size=2), []

    def make(model, rows, seeds, labels):
        told.append(labels["labels"].tolist())
        return torch.zeros(len(seeds), 2, 4, 4)

    in_batches(plain, ordered(plain, 3, [2, 0, 1], 0), make)
    assert told == [[2, 0], [1]]


def test_modes_come_back_after_an_error() -> None:
    plain = Sampler(small_model())
    plain.model.train()
    with pytest.raises(RuntimeError, match="stop"):
        in_batches(plain, ordered(plain, 1, None, 0), _stop)
    assert all(module.training for module in plain.model.modules())


def _stop(*args):
    raise RuntimeError("stop")
