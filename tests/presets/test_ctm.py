"""Published numbers of CTM's runs."""

import pytest

from ctm_fast.losses import LPIPS
from ctm_fast.presets import PRESETS

CIFAR = [name for name in PRESETS if name.startswith("ctm-cifar10")]


@pytest.mark.parametrize("name", CIFAR)
def test_cifar10(name) -> None:
    preset = PRESETS[name]
    objective, train = preset.objective(), preset.train()
    assert (objective.num_scales, objective.levels.max_steps) == (18, 17)
    assert objective.distance == LPIPS()
    assert (train.lr, train.batch_size, train.ema) == (4e-4, 256, (0.999,))
    assert train.steps == (300_000 if "noteacher" in name else 100_000)
    assert train.target_ema == (0.9999 if name == "ctm-cifar10-gan" else 0.999)
    assert (train.optimizer, train.betas, train.precision) == ("radam", (0.9, 0.999), "fp16")
    assert preset.net_options == {"dropout": 0.13, "label_dim": 10 if "cond" in name else 0}


def test_imagenet64() -> None:
    first, second = PRESETS["ctm-imagenet64"], PRESETS["ctm-imagenet64-gan"]
    for preset, most, lr, batch, start in (
        (first, 39, 4e-4, 1440, "teacher"),
        (second, 20, 8e-6, 2048, "student"),
    ):
        objective, train = preset.objective(), preset.train()
        assert (objective.num_scales, objective.levels.max_steps) == (40, most)
        assert (train.lr, train.batch_size, preset.start) == (lr, batch, start)
        assert train.ema == (0.999, 0.9999, 0.9999432189950708)
        assert preset.net_options["dropout"] == 0.0
    assert first.sources["train.steps"].startswith("unverified")


def test_the_adversarial_term() -> None:
    for name in ("ctm-cifar10-gan", "ctm-cifar10-cond-gan", "ctm-imagenet64-gan"):
        gan = PRESETS[name].objective().gan
        assert gan.start == (0 if "imagenet" in name else 50_000)
        assert (gan.period, gan.low, gan.high, gan.lr) == (2, 0.01, 10.0, 2e-3)
        assert (gan.betas, gan.augment, gan.different_augment) == ((0.5, 0.9), True, True)
        assert [b.model for b in gan.backbones] == [
            "deit_base_distilled_patch16_224",
            "tf_efficientnet_lite0",
        ]


def test_without_a_teacher() -> None:
    preset = PRESETS["ctm-cifar10-noteacher"]
    assert preset.objective().self_teacher == "heun_denoiser"
    assert (preset.start, preset.sigma_data) == ("random", 0.5)
    assert "teacher" not in preset.objective().needs
