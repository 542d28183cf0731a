"""Networks of this library from their own names and shapes."""

import dataclasses

import pytest

from ctm_fast.models import net_from_config
from ctm_fast.models.recognise_own import looks_like_own, recognise_own
from tests.models.tiny import ADM, SONG

ONE_LEVEL = dataclasses.replace(
    SONG, channel_mult=(2,), attn_resolutions=(), label_dim=0, augment_dim=0
)


@pytest.mark.parametrize(
    "config",
    [
        SONG,
        dataclasses.replace(SONG, destination=True, label_dim=0, encoder="skip", decoder="skip"),
        dataclasses.replace(SONG, embedding="fourier", encoder="residual", channel_mult_noise=2,
                            resample_filter=(1, 3, 3, 1)),
        ADM,
        dataclasses.replace(ADM, destination=True, label_dim=0, augment_dim=2),
        dataclasses.replace(ADM, resampling="conv", label_dim=0, num_blocks=2),
        dataclasses.replace(ADM, min_group=4, attn_resolutions=(), bottleneck_attention=False),
    ],
)  # fmt: skip
def test_configurations_come_back(config):
    state = net_from_config(config).state_dict()
    assert looks_like_own(state)
    unseen = {"dropout": config.dropout}
    if config.__class__ is ADM.__class__:
        unseen |= {"channels_per_head": 32, "min_group": config.min_group}
    found = recognise_own(state, unseen)
    assert (found.config, found.layout) == (config, "own")


def test_groups_of_narrow_networks_are_not_stored():
    notes = recognise_own(net_from_config(ADM).state_dict(), {}).notes
    assert "min_group=1: not stored; networks of EDM have 4" in notes


def test_families_that_cannot_be_told_apart():
    state = net_from_config(ONE_LEVEL).state_dict()
    with pytest.raises(ValueError, match="pass family='song' or family='adm'"):
        recognise_own(state, {})
    found = recognise_own(state, {"family": "song", "dropout": 0.2})
    assert found.config == ONE_LEVEL
    with pytest.raises(ValueError, match="unknown family 'dit'"):
        recognise_own(state, {"family": "dit"})


def test_incomplete_states():
    state = {n: v for n, v in net_from_config(SONG).state_dict().items() if n[:4] != "enc."}
    with pytest.raises(ValueError, match="resolutions"):
        recognise_own(state, {})
    with pytest.raises(ValueError, match="no blocks"):
        recognise_own({n: v for n, v in state.items() if n[:4] != "dec."}, {"family": "song"})
