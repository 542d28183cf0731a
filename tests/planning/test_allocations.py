"""Bytes of tensors that are alive, with and without data."""

import torch

from ctm_fast import models
from ctm_fast.planning.allocations import Allocations, pass_bytes


def test_what_is_let_go_is_not_counted() -> None:
    with Allocations() as counter:
        a = torch.zeros(1000)
        view = a[10:]
        b = a + 1
        assert (counter.now, counter.peak) == (8000, 8000)
        del b
        assert counter.now == 4000
        c = view * 2
        del a, view
        assert (counter.now, counter.peak) == (3960, 8000)
    assert len(c) == 990


def test_memory_is_that_of_a_pass_with_data() -> None:
    config = models.PRESETS["photo-patches"]
    net = models.net_from_config(config).train()
    x, level = torch.randn(4, 3, 32, 32), torch.zeros(4)
    with Allocations() as counter:
        net(x, level).square().sum().backward()
    estimate = pass_bytes(config, 4)
    assert abs(estimate / counter.peak - 1) < 0.05


def test_half_precision_and_frozen_passes_need_less() -> None:
    config = models.PRESETS["digits"]
    full, half = pass_bytes(config, 64), pass_bytes(config, 64, torch.bfloat16)
    assert half < 0.75 * full
    assert pass_bytes(config, 64, backward=False) < full / 2
    assert pass_bytes(models.PRESETS["ctm-digits"], 64, carried=True) > 1.5 * full
