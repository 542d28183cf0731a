"""The table of networks is what a pass without data gives."""

import dataclasses

import pytest
import torch

from ctm_fast import models
from ctm_fast.kernels import group_norm
from ctm_fast.planning import sizes


@pytest.mark.parametrize(
    "name",
    ["digits", *(pytest.param(n, marks=pytest.mark.slow) for n in models.PRESETS if n != "digits")],
)
def test_the_table_is_up_to_date(name) -> None:
    """If not: python -m ctm_fast.planning."""
    stored, found = sizes.table()[name], sizes.computed(models.PRESETS[name])
    assert stored.keys() == found.keys()
    # Memory is that of the fused ops, which keep less than their definitions do.
    fused = group_norm.why_not("native", torch.zeros(1, 32, 2, 2), 32, *torch.ones(2, 32)) is None
    work = ("forward", "trained", "encoder")
    for key, value in found.items():
        if not fused and key not in work:
            assert stored[key] <= value, key
            continue
        assert stored[key] == pytest.approx(value, rel=0.02), key


def test_what_is_not_in_the_table_is_computed() -> None:
    config = dataclasses.replace(models.PRESETS["digits"], model_channels=64)
    known = models.PRESETS["digits"]
    assert sizes.forward_flops(config) > 3 * sizes.forward_flops(known)
    assert sizes.training_flops(config) > 3 * sizes.training_flops(known)
    assert sizes.encoding_flops(config) > 3 * sizes.encoding_flops(known)
    assert sizes.training_bytes(config, None) > 1.5 * sizes.training_bytes(known, None)
    assert sizes.frozen_bytes(config, torch.float32) > sizes.frozen_bytes(known, torch.float32)


def test_what_is_told_to_a_network_does_not_change_it() -> None:
    config = models.PRESETS["ncsnpp-cifar10"]
    other = dataclasses.replace(config, fourier_scale=0.02, label_dim=10, augment_dim=9)
    assert sizes.forward_flops(other) == sizes.table()["ncsnpp-cifar10"]["forward"]
    assert sizes.training_bytes(other, None) == sizes.table()["ncsnpp-cifar10"]["full dropout"]
