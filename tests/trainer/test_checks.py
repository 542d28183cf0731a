"""Objectives, networks and data that do not fit together are refused by name."""

import dataclasses
from typing import ClassVar

import pytest
import torch

from ctm_fast.data import ArrayDataset
from ctm_fast.losses import CTM, DSM, TCM, Balance
from tests.trainer import tiny


@dataclasses.dataclass(frozen=True)
class Odd(DSM):
    needs: ClassVar = frozenset({"discriminator"})


@dataclasses.dataclass(frozen=True)
class SelfBalanced(DSM):
    balance: ClassVar = {"dsm": Balance()}


def pixels(size=4, channels=1):
    return torch.zeros(6, channels, size, size, dtype=torch.uint8)


def test_objectives():
    with pytest.raises(ValueError, match="discriminator"):
        tiny.trainer(Odd())
    with pytest.raises(ValueError, match="CTM needs a teacher"):
        tiny.trainer(CTM(num_scales=4), teacher=None)
    with pytest.raises(ValueError, match="adaptive weights for"):
        tiny.trainer(SelfBalanced())


def test_networks():
    with pytest.raises(ValueError, match=r"bfloat16.*float32 weights"):
        tiny.trainer(student=tiny.denoiser().bfloat16())
    with pytest.raises(ValueError, match="requires a gradient"):
        tiny.trainer(student=tiny.denoiser().requires_grad_(False))
    student = tiny.denoiser()
    with pytest.raises(ValueError, match="share weights"):
        tiny.trainer(student=student, teacher=student)
    teacher = tiny.denoiser(destination=False)
    teacher.net.img_resolution = 8
    with pytest.raises(ValueError, match="img_resolution=4, teacher has 8"):
        tiny.trainer(teacher=teacher)


def test_data():
    labels = torch.arange(6)
    with pytest.raises(ValueError, match=r"\(1, 8, 8\).*\(1, 4, 4\)"):
        tiny.trainer(data=ArrayDataset(pixels(8), labels % 3))
    with pytest.raises(ValueError, match="has no labels"):
        tiny.trainer(data=ArrayDataset(pixels()))
    with pytest.raises(ValueError, match="6 classes; the student takes 3"):
        tiny.trainer(data=ArrayDataset(pixels(), labels))
    with pytest.raises(ValueError, match="no-such-data"):
        tiny.trainer(data="no-such-data")


def consistency(seed: int):
    model = tiny.denoiser(seed, destination=False)
    model.kind = "consistency"
    return model


def test_kind_of_the_teacher():
    tiny.trainer(TCM(), student=consistency(0), teacher=consistency(1))
    with pytest.raises(ValueError, match="needs a teacher of kind 'consistency', got kind 'den"):
        tiny.trainer(TCM(), student=consistency(0))
    with pytest.raises(ValueError, match=r"CTM needs a teacher that denoises.*got kind 'consis"):
        tiny.trainer(CTM(num_scales=4), teacher=consistency(1))
    tiny.trainer(CTM(num_scales=4), teacher=tiny.denoiser(1))


def test_augmentation_needs_a_network_that_is_told():
    with pytest.raises(ValueError, match=r"augment=0\.1 needs a network with augment_dim=9, got 0"):
        tiny.trainer(DSM(), augment=0.1)
    with pytest.raises(ValueError, match="CTM needs augment=0"):
        tiny.trainer(augment=0.1)
    with pytest.raises(ValueError, match=r"augment must be in \[0, 1\]"):
        tiny.trainer(augment=1.5)
