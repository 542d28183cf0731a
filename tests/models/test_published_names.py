"""Published names of a few parameters, spelled out."""

import dataclasses

import torch

from ctm_fast.models import build
from ctm_fast.models.published_names import adm_names, edm_constants, edm_names, no_constants
from tests.models.tiny import SONG, randomised


def on_meta(name, **overrides):
    with torch.device("meta"):
        return build(name, **overrides)


def test_ddpmpp_names():
    names = edm_names(on_meta("ctm-ddpmpp-cifar10", label_dim=10))
    for ours, published in {
        "map_label.bias": "map_label.bias",
        "map_layer1_to.weight": "map_layer1_s.weight",
        "input_conv.weight": "enc.32x32_conv.weight",
        "enc.32x32.block0.affine_to.bias": "enc.32x32_block0.affine_s.bias",
        "enc.16x16.down.skip.weight": "enc.16x16_down.skip.weight",
        "dec.8x8.in0.qkv.weight": "dec.8x8_in0.qkv.weight",
        "outputs.32x32.norm.weight": "dec.32x32_aux_norm.weight",
        "outputs.32x32.conv.weight": "dec.32x32_aux_conv.weight",
    }.items():
        assert names[ours] == published


def test_adm_names():
    names = adm_names(on_meta("ctm-adm-imagenet64"))
    for ours, published in {
        "map_layer0.weight": "time_embed.0.weight",
        "map_layer1_to.bias": "time_embed_s.2.bias",
        "map_label.weight": "label_emb.weight",
        "input_conv.weight": "input_blocks.0.0.weight",
        "enc.64x64.block0.conv0.weight": "input_blocks.1.0.in_layers.2.weight",
        "enc.32x32.down.norm0.weight": "input_blocks.4.0.in_layers.0.weight",
        "enc.32x32.block0.qkv.weight": "input_blocks.5.1.qkv.weight",
        "dec.8x8.in0.proj.bias": "middle_block.1.proj_out.bias",
        "dec.8x8.in1.affine_to.weight": "middle_block.2.emb_layers_s.1.weight",
        "dec.16x16.up.conv1.weight": "output_blocks.3.2.out_layers.3.weight",
        "dec.64x64.up.norm1.weight": "output_blocks.11.2.out_layers.0.weight",
        "dec.64x64.block3.conv1.weight": "output_blocks.15.0.out_layers.3.weight",
        "outputs.64x64.norm.bias": "out.0.bias",
        "outputs.64x64.conv.weight": "out.2.weight",
    }.items():
        assert names[ours] == published


def test_adm_names_of_convolutions_that_resample():
    names = adm_names(on_meta("adm-imagenet64", resampling="conv", attn_resolutions=(16, 8)))
    for ours, published in {
        "enc.32x32.down.conv.weight": "input_blocks.4.0.op.weight",
        "enc.8x8.down.conv.bias": "input_blocks.12.0.op.bias",
        "dec.16x16.up.conv.weight": "output_blocks.3.2.conv.weight",
        "dec.64x64.up.conv.bias": "output_blocks.11.1.conv.bias",
    }.items():
        assert names[ours] == published
    assert set(names) == set(on_meta("adm-imagenet64", resampling="conv",
                                     attn_resolutions=(16, 8)).state_dict())  # fmt: skip


def test_last_layers_are_those_of_the_published_adaptive_weights():
    for name, table, expected in (
        ("ctm-ddpmpp-cifar10", edm_names, "dec.32x32_aux_conv.weight"),
        ("ctm-adm-imagenet64", adm_names, "output_blocks.15.0.out_layers.3.weight"),
    ):
        net = on_meta(name)
        ours = next(n for n, p in net.named_parameters() if p is net.last_layer.weight)
        assert table(net)[ours] == expected


def test_names_are_unique_and_complete():
    for name, table in (("ncsnpp-cifar10", edm_names), ("adm-imagenet64", adm_names)):
        net = on_meta(name)
        names = table(net)
        assert set(names) == set(net.state_dict())
        assert len(set(names.values())) == len(names)


def test_filters_of_image_branches():
    net = randomised(dataclasses.replace(SONG, encoder="skip", decoder="skip"))
    constants = edm_constants(net)
    assert set(constants) == {
        f"{name}.resample_filter"
        for name in ("enc.4x4_down.conv0", "enc.4x4_down.skip", "enc.4x4_aux_down",
                     "dec.8x8_up.conv0", "dec.8x8_up.skip", "dec.8x8_aux_up")
    }  # fmt: skip
    assert all(torch.equal(v, torch.full((1, 1, 2, 2), 0.25)) for v in constants.values())
    assert no_constants(net) == {}
