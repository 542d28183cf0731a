"""Counting evaluations with a network of one layer."""

import pytest

from ctm_fast.losses import AYF, CM, CTM, CTMGAN, DSM, ECT, GAN, PD, SCM, PseudoHuber
from ctm_fast.planning.probe import probed
from ctm_fast.presets import PRESETS


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (DSM(), {"trained": 1}),
        (ECT(), {"trained": 1, "frozen": 1}),
        (CM(), {"trained": 1, "frozen": 1, "teacher": 2}),
        (PD(), {"trained": 1, "teacher": 2}),
        (SCM(distil=True), {"trained": 1, "tangents": 1, "teacher": 1}),
    ],
    ids=["dsm", "ect", "cm", "pd", "scm"],
)
def test_known_numbers(objective, expected) -> None:
    found = probed(objective)
    assert {k: v for k, v in found.items() if k != "distances"} == expected


def test_a_discriminator_gets_all_networks() -> None:
    """The pass through the teacher's encoder that tells its sizes does not count."""
    objective = CTMGAN(num_scales=4, distance=PseudoHuber(), gan=GAN(start=99))
    plain = CTM(num_scales=4, distance=PseudoHuber())
    assert probed(objective) == probed(plain)


def test_guidance_asks_the_teacher_twice() -> None:
    assert probed(AYF(guidance=2.0))["teacher"] == 2 * probed(AYF(guidance=1.0))["teacher"]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_counted(name) -> None:
    if not PRESETS[name].objective_name.startswith("ctm"):
        assert probed(PRESETS[name].objective())["trained"] == 1
