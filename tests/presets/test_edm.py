"""Published numbers of EDM's runs."""

import pytest

from ctm_fast.densities import LogNormal
from ctm_fast.presets import PRESETS


@pytest.mark.parametrize(
    ("name", "batch", "mimg", "lr", "dropout", "augment", "halflife"),
    [
        ("edm-cifar10", 512, 200, 1e-3, 0.13, 0.12, 500),
        ("edm-cifar10-cond", 512, 200, 1e-3, 0.13, 0.12, 500),
        ("edm-cifar10-ve", 512, 200, 1e-3, 0.13, 0.12, 500),
        ("edm-ffhq64", 256, 200, 2e-4, 0.05, 0.15, 500),
        ("edm-afhqv2-64", 256, 200, 2e-4, 0.25, 0.15, 500),
        ("edm-imagenet64", 4096, 2500, 1e-4, 0.10, 0.0, 50_000),
    ],
)
def test_table(name, batch, mimg, lr, dropout, augment, halflife) -> None:
    preset = PRESETS[name]
    train = preset.train()
    assert (train.batch_size, train.optimizer, train.lr) == (batch, "adam", lr)
    assert (train.betas, train.eps) == ((0.9, 0.999), 1e-8)
    assert train.steps * batch == pytest.approx(mimg * 1e6, rel=1e-5)
    assert train.lr_warmup * batch == pytest.approx(1e7, rel=1e-3)
    assert (train.ema, train.ema_halflife_kimg, train.ema_rampup) == ((), (halflife,), 0.05)
    assert (train.augment, preset.net_options["dropout"]) == (augment, dropout)
    assert preset.net_options.get("augment_dim", 0) == (9 if augment else 0)
    assert preset.objective().density == LogNormal(-1.2, 1.2)
    assert (preset.sigma_data, preset.sigma_range) == (0.5, (0.002, 80.0))
    assert (train.precision == "fp16") == ("imagenet" in name)


def test_classes() -> None:
    classes = {n: p.net_options["label_dim"] for n, p in PRESETS.items() if n.startswith("edm-")}
    assert classes == {
        "edm-cifar10": 0,
        "edm-cifar10-cond": 10,
        "edm-cifar10-ve": 0,
        "edm-ffhq64": 0,
        "edm-afhqv2-64": 0,
        "edm-imagenet64": 1000,
    }
