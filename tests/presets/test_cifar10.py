"""Published numbers for CIFAR-10."""

import pytest

from ctm_fast.presets import PRESETS
from ctm_fast.presets.cifar10 import ECT_CODE, FASTGEN


def test_ect() -> None:
    preset = PRESETS["ect-cifar10"]
    objective, train = preset.objective(), preset.train()
    assert (train.steps, train.batch_size, train.lr, train.ema) == (200_000, 128, 1e-4, (0.9999,))
    assert train.steps // objective.gap.stages == 25_000
    assert objective.gap.factor(objective.gap.stages - 1) == 1 / 256
    assert preset.sources["objective.gap"] == ECT_CODE
    hour = PRESETS["ect-cifar10-1hour"]
    assert hour.objective().gap.factor(0) == 1 / 256
    assert (hour.train().steps, hour.train().ema) == (8_000, (0.9993,))
    assert hour.sources["train.steps"] == FASTGEN


def test_sct_is_ect_where_nothing_else_is_known() -> None:
    sct, ect = PRESETS["sct-cifar10"], PRESETS["ect-cifar10"]
    assert sct.train() == ect.train()
    assert all(source.startswith("unverified") for _, _, source in sct)
    gap = sct.objective().gap
    assert gap.factor(gap.stages - 1) == 1 / 256


def test_cm() -> None:
    cd, ct = PRESETS["cd-cifar10"].objective(), PRESETS["ct-cifar10"].objective()
    assert (cd.scales.num_scales(0.3), cd.decay, cd.teacher_solver) == (18, 0.0, "heun")
    assert [ct.scales.num_scales(k) for k in (0, 0.01, 0.1, 0.25, 0.5, 0.75, 1)] == [
        *(2, 16, 48, 76, 107, 131, 151)
    ]
    assert ct.teacher_solver is None
    assert PRESETS["ct-cifar10"].start == "random"
    assert PRESETS["cd-cifar10"].train().batch_size == 512


def test_ict() -> None:
    preset = PRESETS["ict-cifar10"]
    objective = preset.objective()
    assert objective.P_mean == -1.1
    stages = [objective.scales.num_scales((k + 0.5) / 8) for k in range(8)]
    assert stages == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert preset.net_options == {"dropout": 0.3, "fourier_scale": 0.02}


def test_tcm() -> None:
    first, second = PRESETS["tcm-cifar10-stage1"], PRESETS["tcm-cifar10-stage2"]
    assert (first.train().batch_size, first.train().lr) == (512, 1e-4)
    assert (second.train().batch_size, second.train().lr) == (1024, 5e-5)
    last, ever = first.objective().gap, second.objective().gap
    assert last.factor(last.stages - 1) == pytest.approx(1e-3)
    assert ever.factor(0) == pytest.approx(1e-3)
    assert second.objective().boundary_share == 0.25
    assert second.middle == 1.0


def test_scm() -> None:
    ct, cd = PRESETS["scm-ct-cifar10"], PRESETS["scm-cd-cifar10"]
    assert (ct.objective().distil, cd.objective().distil) == (False, True)
    for preset in (ct, cd):
        assert preset.objective().warmup * preset.train().steps == pytest.approx(10_000)
        assert preset.train().ema_halflife_kimg == (500.0,)
    assert (ct.net_options["dropout"], cd.net_options["dropout"]) == (0.2, 0.0)


def test_meanflow_jumps_in_three_of_four_images() -> None:
    for name in ("meanflow-cifar10", "meanflow-cifar10-paper"):
        assert PRESETS[name].objective().times.moving == 0.75
    assert PRESETS["meanflow-cifar10"].train().lr_warmup == round(200 * 50_000 / 1024)
