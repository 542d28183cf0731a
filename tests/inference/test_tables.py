"""Levels given as numbers are embedded once, and change nothing."""

import copy

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.inference import Tabulated, freeze
from ctm_fast.inference.tables import MOST
from ctm_fast.models import student_from
from tests.models.tiny import ADM, SONG, randomised

LEVELS = [(80.0, 0.002), (80.0, 4.0), (4.0, 0.002)]


def model(config=SONG, jumps=True):
    teacher = Denoiser(randomised(config).float())
    return freeze(student_from(teacher) if jumps else teacher, torch.float32)


def images(batch=3, scale=10.0):
    torch.manual_seed(0)
    return scale * torch.randn(batch, 2, 8, 8)


@pytest.fixture
def embedded(monkeypatch):
    """Counts the embeddings of the network."""
    calls = []
    for kind in (type(randomised(SONG)), type(randomised(ADM))):
        plain = kind.embed
        monkeypatch.setattr(
            kind, "embed", lambda self, *a, plain=plain: calls.append(1) or plain(self, *a)
        )
    return calls


@pytest.mark.parametrize("config", [SONG, ADM])
def test_jumps_equal_those_with_tensors(config):
    frozen, x = model(config), images()
    assert isinstance(frozen, Tabulated)
    for t, s in LEVELS * 2:
        expected = Denoiser.jump(frozen, x, t, s)
        torch.testing.assert_close(frozen.jump(x, t, s), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(frozen.jump(x[:1], t, s), expected[:1], rtol=1e-5, atol=1e-5)
    assert len(frozen._rows) == len(LEVELS)


def test_every_pair_of_levels_is_embedded_once(embedded):
    frozen, x = model(), images()
    embedded.clear()
    for _ in range(3):
        for t, s in LEVELS:
            frozen.jump(x, t, s)
    assert len(embedded) == len(LEVELS)
    frozen(x, 5.0), frozen(x, 5.0)
    assert len(embedded) == len(LEVELS) + 1


@pytest.mark.parametrize("jumps", [False, True])
def test_denoising_equals_that_with_tensors(jumps):
    frozen, x = model(jumps=jumps), images()
    expected = Denoiser.forward(frozen, x, torch.tensor(7.0))
    torch.testing.assert_close(frozen(x, 7.0), expected, rtol=1e-5, atol=1e-5)
    assert len(frozen._rows) == 1


def test_labels_and_tensors_are_not_tabulated():
    frozen, x = model(), images()
    labels = torch.arange(3)
    frozen.jump(x, 80.0, 0.002, labels), frozen(x, 80.0, labels)
    frozen.jump(x, torch.tensor(80.0), 0.002), frozen(x, torch.tensor([1.0, 2.0, 3.0]))
    assert not frozen._rows


def test_a_denoiser_still_cannot_jump():
    with pytest.raises(ValueError, match="cannot jump"):
        model(jumps=False).jump(images(), 80.0, 0.002)


def test_changed_weights_are_seen():
    frozen, x = model(), images()
    before = frozen.jump(x, 80.0, 0.002)
    frozen.net.map_layer0.weight.mul_(3)
    after = frozen.jump(x, 80.0, 0.002)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, Denoiser.jump(frozen, x, 80.0, 0.002), rtol=1e-5, atol=1e-5)


def test_the_table_is_bounded_and_not_copied():
    frozen, x = model(), images(1)
    for i in range(MOST + 5):
        frozen.jump(x, 80.0, 1.0 + i * 0.01)
    assert len(frozen._rows) == MOST
    assert not any(key[1] == 1.0 for key in frozen._rows)
    assert not copy.deepcopy(frozen)._rows
    assert not frozen.double()._rows


def test_rows_made_in_inference_mode_serve_gradients():
    frozen, x = model(), images()
    with torch.inference_mode():
        frozen.jump(x, 80.0, 0.002)
    x.requires_grad_()
    frozen.jump(x, 80.0, 0.002).sum().backward()
    assert x.grad is not None


def test_modulations_of_a_grid():
    frozen, x = model(), images(2)
    sigma, sigma_to = torch.tensor([80.0, 3.0]), torch.tensor([3.0, 0.5])
    rows = frozen.modulations(sigma, sigma_to)
    scaled = frozen.precond.c_in(sigma).reshape(-1, 1, 1, 1) * x
    expected = frozen.network(x, sigma, sigma_to)
    torch.testing.assert_close(frozen.raw(scaled, modulation=rows), expected)
