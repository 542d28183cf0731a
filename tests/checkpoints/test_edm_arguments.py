"""Constructor arguments of NVlabs/edm's networks as configurations."""

import pytest

from ctm_fast.checkpoints.edm_arguments import NETWORKS, Arguments, config_from_arguments
from ctm_fast.models import ADMConfig, SongConfig


def test_only_the_sizes():
    """All else has the defaults of those classes."""
    song = SongConfig(
        img_resolution=64,
        channel_mult=(1, 2, 2, 2),
        dropout=0.10,
    )
    assert config_from_arguments("SongUNet", (64, 3, 3), {}) == Arguments(song, 3)
    adm = ADMConfig(img_resolution=64, label_dim=0, min_group=4)
    assert config_from_arguments("DhariwalUNet", (64, 3, 6), {}) == Arguments(adm, 6)


def test_all_of_them_by_position_or_by_name():
    values = [32, 1, 1, 10, 9, 64, [1, 2], 2, 3, [16], 0.13, 0.2]
    values += ["fourier", 2, "residual", "skip", [1, 3, 3, 1]]
    names = ["img_resolution", "in_channels", "out_channels", "label_dim", "augment_dim"]
    names += ["model_channels", "channel_mult", "channel_mult_emb", "num_blocks"]
    names += ["attn_resolutions", "dropout", "label_dropout", "embedding_type"]
    names += ["channel_mult_noise", "encoder_type", "decoder_type", "resample_filter"]
    expected = SongConfig(
        img_resolution=32,
        img_channels=1,
        label_dim=10,
        augment_dim=9,
        model_channels=64,
        channel_mult=(1, 2),
        channel_mult_emb=2,
        num_blocks=3,
        attn_resolutions=(16,),
        dropout=0.13,
        label_dropout=0.2,
        embedding="fourier",
        channel_mult_noise=2,
        encoder="residual",
        decoder="skip",
        resample_filter=(1, 3, 3, 1),
    )
    for split in (0, 5, len(names)):
        given = dict(zip(names[split:], values[split:], strict=True))
        assert config_from_arguments("SongUNet", values[:split], given) == Arguments(expected, 1)
    adm = ADMConfig(
        img_resolution=32,
        img_channels=1,
        label_dim=10,
        augment_dim=9,
        model_channels=64,
        channel_mult=(1, 2),
        channel_mult_emb=2,
        num_blocks=3,
        attn_resolutions=(16,),
        dropout=0.13,
        label_dropout=0.2,
        min_group=4,
    )
    assert config_from_arguments("DhariwalUNet", values[:12], {}) == Arguments(adm, 1)


def test_resolutions_that_do_not_occur_have_no_attention():
    song = config_from_arguments("SongUNet", (24, 3, 3), {"channel_mult": [1, 2]}).config
    assert song.attn_resolutions == ()


@pytest.mark.parametrize(
    ("width", "attended", "bottleneck"), [(16, (), False), (32, (8,), True), (64, (16, 8), True)]
)
def test_narrow_levels_of_an_adm_network_have_no_attention(width, attended, bottleneck):
    """Its heads are 64 channels wide: a block of 32 has none."""
    arguments = {"model_channels": width, "channel_mult": [1, 2], "attn_resolutions": [32, 16, 8]}
    adm = config_from_arguments("DhariwalUNet", (16, 3, 3), arguments).config
    assert (adm.attn_resolutions, adm.bottleneck_attention) == (attended, bottleneck)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        (
            "UNet",
            (8, 3, 3),
            {},
            r"unknown network 'UNet'; known are \('SongUNet', 'DhariwalUNet'\)",
        ),
        ("SongUNet", (8,), {}, "argument in_channels is not stored"),
        ("SongUNet", (8,) * 18, {}, "18 positional arguments"),
        ("SongUNet", (8, 3, 3), {"depth": 3, "a": [1]}, r"no network here has: a=\[1\], depth=3"),
        ("DhariwalUNet", (8, 3, 3), {"resample_filter": [1, 1]}, r"resample_filter=\[1, 1\]"),
        ("SongUNet", (8, 3, 3), {"num_blocks": "four"}, "num_blocks='four' has the wrong type"),
        ("SongUNet", (8, 3, 3), {"num_blocks": True}, "num_blocks=True has the wrong type"),
        ("SongUNet", (8, 3, 3), {"num_blocks": 2.0}, "num_blocks=2.0 has the wrong type"),
        ("SongUNet", (8, 3, 3), {"channel_mult": 3}, "channel_mult=3 has the wrong type"),
        ("SongUNet", (8, 3, 3), {"channel_mult": ["x"]}, "has the wrong type"),
        ("SongUNet", (8, 3, 3), {"dropout": None}, "dropout=.*NoneType.* has the wrong type"),
        ("SongUNet", (8, 3, 3), {"encoder_type": "deep"}, "unknown encoder 'deep'"),
        ("SongUNet", (8, 3, 3), {"channel_mult": []}, "channel_mult must name"),
        ("DhariwalUNet", (8, 3, 3), {"channel_mult": []}, "channel_mult must name"),
        ("SongUNet", (-8, 3, 3), {}, "img_resolution must be at least 1"),
    ],
)
def test_what_cannot_be_expressed_is_named(name, args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        config_from_arguments(name, args, kwargs)


def test_long_values_are_cut_in_messages():
    with pytest.raises(ValueError) as caught:
        config_from_arguments(NETWORKS[0], (8, 3, 3), {"note": "x" * 10_000})
    assert len(str(caught.value)) < 200
