"""What is certain about a network of another codebase."""

import types

from ctm_fast.wrappers.known import EDM_KINDS, RAW, facts, host_class


class EDMPrecond:
    sigma_min, sigma_max, sigma_data = 0, float("inf"), 0.5
    img_channels, img_resolution, label_dim = 3, 32, 10

    def round_sigma(self, sigma):
        return sigma


def named(name, base=EDMPrecond, **attributes):
    return type(name, (base,), attributes)()


def test_edm_classes():
    expected = dict(
        sigma_data=0.5, shape=(3, 32, 32), label_dim=10, sigma_min=0.002, sigma_max=80.0,
        time="edm", labels="onehot", kind="denoiser",
    )  # fmt: skip
    assert facts(EDMPrecond()) == expected
    assert facts(named("ECMPrecond", sigma_min=0.003)) == expected | {
        "kind": "consistency",
        "sigma_min": 0.003,
    }
    assert facts(named("VEPrecond", sigma_min=0.02, sigma_max=100))["sigma_min"] == 0.02
    assert set(EDM_KINDS.values()) == {"denoiser", "consistency"}


def test_a_new_class_of_that_family_does_not_tell_its_kind():
    found = facts(named("TruncatedPrecond"))
    assert "kind" not in found and found["time"] == "edm" and found["labels"] == "onehot"


def test_edm2_and_ect_share_a_class():
    plain = type("Precond", (), dict(img_channels=4, img_resolution=8, label_dim=0, unet=1))()
    assert facts(plain) == dict(shape=(4, 8, 8), label_dim=0, time="edm", labels="onehot")


def test_raw_networks_know_their_images_and_classes_only():
    config = types.SimpleNamespace(sample_size=(8, 16), in_channels=1, num_class_embeds=None)
    unet = type("UNet2DModel", (), dict(config=config))()
    assert facts(unet) == dict(shape=(1, 8, 16), label_dim=0)
    adm = type("UNetModel", (), dict(in_channels=3, image_size=64, num_classes=1000))()
    assert facts(adm) == dict(shape=(3, 64, 64), label_dim=1000)
    assert set(RAW) == {"UNet2DModel", "UNetModel"}


def test_nothing_is_made_up():
    assert facts(lambda x, t: x) == {}
    assert facts(type("Net", (), dict(img_channels="3", label_dim=-1, sigma_data=True))()) == {}


def test_a_frozen_network_is_known_by_its_originals_class():
    frozen = named("DenoisingNetwork", host_class="EDMPrecond")
    assert host_class(frozen) == "EDMPrecond" and facts(frozen) == facts(EDMPrecond())
    assert host_class(EDMPrecond()) == "EDMPrecond"
    assert host_class(named("Net", host_class=3)) == "Net"
