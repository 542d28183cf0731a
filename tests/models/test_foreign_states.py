"""What states of other things are called."""

import pytest
import torch

from ctm_fast.models.foreign_states import describe, examples, output_rows


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "an empty file"),
        (["deit_base_distilled_patch16_224.mini_discs.0.main.0.weight"], "a discriminator"),
        (["tf_efficientnet_lite0.mini_discs.0.main.0.weight"], "a discriminator"),
        (["state.0.exp_avg", "param_groups"], "the state of an optimizer"),
        (["lin0.model.1.weight"], "LPIPS"),
        (["emb_noise.weight", "enc.64x64_conv.weight"], "an EDM2 network"),
        (["unet.emb_noise.weight", "unet.enc.64x64_conv.weight"], "an EDM2 network"),
        (["module.all_modules.0.weight"], "score_sde_pytorch"),
        (["params/Conv_0/kernel"], "a flax network"),
        (["down_blocks.0.resnets.0.norm1.weight"], "a UNet2DModel of diffusers"),
        (
            ["time_embed.0.weight", "input_blocks.0.0.weight", "out.0.weight"],
            "classifier of guided",
        ),
        (["time_embed_s.0.weight"], "an incomplete trajectory network"),
        (["enc.32x32_conv.weight"], "an incomplete U-Net"),
        (["features.0.weight"], "a classifier network"),
        (["x_embedder.proj.weight"], "a transformer"),
        (["something"], "no network that is known"),
    ],
)
def test_descriptions(names, expected):
    assert expected in describe(names)


def test_examples():
    assert examples(["b", "a"]) == "2 keys, for example a, b"
    assert examples([]) == "0 keys"


@pytest.mark.parametrize("layer", ["out.2", "conv_out", "out_conv", "dec.8x8_aux_conv"])
def test_rows_of_the_output(layer):
    state = {f"{layer}.weight": torch.arange(4.0), "enc.conv.weight": torch.arange(4.0)}
    cut = output_rows(state, 1, 3)
    assert cut[f"{layer}.weight"].tolist() == [1, 2]
    assert cut["enc.conv.weight"] is state["enc.conv.weight"]
