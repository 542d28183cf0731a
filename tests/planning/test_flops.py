"""Work of networks, by hand and against the specification."""

import pytest
import torch
from torch.nn import functional

from ctm_fast import models
from ctm_fast.planning.flops import counted, encoder_flops, network_flops, parameters


def test_a_product_by_hand() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(3, 5, requires_grad=True)
    assert counted(lambda: a @ b) == 2 * 2 * 3 * 5
    assert counted(lambda: a @ b, backward=True) == 2 * (2 * 2 * 3 * 5)
    image, weight = torch.zeros(1, 2, 4, 4), torch.zeros(6, 2, 3, 3)
    assert counted(lambda: functional.conv2d(image, weight, padding=1)) == 2 * 16 * 6 * 2 * 9


def test_a_network() -> None:
    config = models.PRESETS["digits"]
    work = network_flops(config)
    assert work.trained == pytest.approx(3 * work.forward, rel=0.01)
    assert 0 < encoder_flops(config) < work.forward
    net = models.build("digits")
    assert parameters(config) == sum(p.numel() for p in net.parameters())


@pytest.mark.slow
def test_published_numbers() -> None:
    for name, gflop, weights in [
        ("ddpmpp-cifar10", 42.4, 55_732_739),
        ("ctm-ddpmpp-cifar10", 42.4, 60_395_267),
        ("adm-imagenet64", 219.3, 295_899_267),
        ("ctm-adm-imagenet64", 219.4, 324_100_611),
    ]:
        config = models.PRESETS[name]
        assert network_flops(config).forward / 1e9 == pytest.approx(gflop, rel=0.004)
        assert parameters(config) == weights
