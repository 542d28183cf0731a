"""Names of a few parameters in UNet2DModel, spelled out, and all of them against diffusers."""

import pytest
import torch

from ctm_fast.models import build, net_from_config
from ctm_fast.models.diffusers_config import from_options
from ctm_fast.models.diffusers_names import current_names, diffusers_names
from ctm_fast.models.key_layouts import from_published, to_published
from tests.diffusers_models import FAMILIES, tiny


def test_names():
    with torch.device("meta"):
        names = diffusers_names(build("adm-imagenet64"))
    for ours, published in {
        "map_layer0.weight": "time_embedding.linear_1.weight",
        "map_label.weight": "class_embedding.weight",
        "input_conv.bias": "conv_in.bias",
        "enc.64x64.block0.affine.weight": "down_blocks.0.resnets.0.time_emb_proj.weight",
        "enc.32x32.down.norm0.weight": "down_blocks.0.downsamplers.0.norm1.weight",
        "enc.8x8.block2.skip.weight": "down_blocks.3.resnets.2.conv_shortcut.weight",
        "enc.32x32.block1.norm2.bias": "down_blocks.1.attentions.1.group_norm.bias",
        "dec.8x8.in0.proj.bias": "mid_block.attentions.0.to_out.0.bias",
        "dec.8x8.in1.conv1.weight": "mid_block.resnets.1.conv2.weight",
        "dec.16x16.up.conv0.weight": "up_blocks.0.upsamplers.0.conv1.weight",
        "dec.64x64.block3.norm1.weight": "up_blocks.3.resnets.3.norm2.weight",
        "outputs.64x64.norm.weight": "conv_norm_out.weight",
        "outputs.64x64.conv.bias": "conv_out.bias",
    }.items():
        assert names.get(ours, (published,)) == (published,)
    prefix = "up_blocks.1.attentions.2.to_"
    assert names["dec.16x16.block2.qkv.weight"] == tuple(f"{prefix}{q}.weight" for q in "qkv")


def test_convolutions_that_resample():
    with torch.device("meta"):
        net = build("adm-imagenet64", resampling="conv")
    names = diffusers_names(net)
    assert names["enc.16x16.down.conv.weight"] == ("down_blocks.1.downsamplers.0.conv.weight",)
    assert names["dec.64x64.up.conv.bias"] == ("up_blocks.2.upsamplers.0.conv.bias",)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_names_shapes_and_values_go_there_and_back(family):
    model = tiny(family)
    state = model.state_dict()
    config = from_options(model.config).config
    own = from_published(state, config, "diffusers")
    net_from_config(config).load_state_dict(own)
    again = to_published(own, config, "diffusers")
    assert sorted(again) == sorted(state)
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_names_of_old_checkpoints():
    model = tiny("ddpm")
    config, state = from_options(model.config).config, model.state_dict()
    old = {
        name.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value")
        .replace("to_out.0", "proj_attn"): value
        for name, value in state.items()
    }  # fmt: skip
    assert "mid_block.attentions.0.query.weight" in old
    assert "mid_block.attentions.0.proj_attn.bias" in old
    new, expected = (from_published(s, config, "diffusers") for s in (old, state))
    assert all(torch.equal(new[name], value) for name, value in expected.items())


def test_a_tensor_under_two_names_is_refused():
    state = {"a.attentions.0.query.weight": torch.ones(1), "a.attentions.0.to_q.weight": None}
    with pytest.raises(ValueError, match=r"a\.attentions\.0\.to_q\.weight is there twice"):
        current_names(state)
    others = ["query.weight", "value", "", "attentions", "a.attentions.0.query"]
    assert list(current_names(dict.fromkeys(others))) == others


def test_parts_must_have_one_shape():
    model = tiny("ddpm")
    state = {**model.state_dict(), "mid_block.attentions.0.to_k.weight": torch.zeros(8, 16)}
    with pytest.raises(ValueError, match=r"to_k.weight.* have shapes .*; they must be equal"):
        from_published(state, from_options(model.config).config, "diffusers")
