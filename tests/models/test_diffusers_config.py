"""Options of UNet2DModel become networks that compute the same; what cannot is named."""

import contextlib
import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctm_fast.inference import freeze
from ctm_fast.models import net_from_config
from ctm_fast.models.diffusers_config import _DEFAULTS, from_module, from_options
from ctm_fast.models.key_layouts import from_published
from tests.diffusers_models import FAMILIES, inputs, library, tiny

LEVELS = ([0.0, 1.0, 500.0], [999.0, -1553.6, 1095.5])


def ours(model):
    found = from_module(model)
    net = net_from_config(found.config)
    net.load_state_dict(from_published(model.state_dict(), found.config, found.layout))
    return net.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_diffusers(family):
    model = tiny(family)
    net, given = ours(model), inputs(model)
    frozen = freeze(net, torch.float32)
    for times in LEVELS:
        time = torch.tensor(times)
        with torch.no_grad():
            expected = model(given["x"], time, given["labels"]).sample
            for network in (net, frozen):
                found = network(given["x"], time, labels=given["labels"])
                assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("family", ["consistency", "ddpm"])
def test_gradients_are_those_of_diffusers(family):
    model = tiny(family).double()
    net, given = ours(model).double(), inputs(model)
    x, time = given["x"].double().requires_grad_(), torch.tensor([3.0, 10.0, 20.0])
    weight = torch.randn(x.shape, dtype=torch.float64)
    (model(x, time, given["labels"]).sample * weight).sum().backward()
    expected, x.grad = x.grad, None
    (net(x, time, labels=given["labels"]) * weight).sum().backward()
    assert (x.grad - expected).abs().max() <= 1e-5 * expected.abs().max()
    grads = {name: p.grad for name, p in model.named_parameters()}
    published = from_published(grads, net.config, "diffusers")
    for name, parameter in net.named_parameters():
        # A key's bias shifts all scores of a query alike, so its gradient is rounding.
        size = max(published[name].abs().max(), 1e-3 * expected.abs().max())
        assert (parameter.grad - published[name]).abs().max() <= 1e-5 * size, name


def test_defaults_are_those_of_diffusers():
    parameters = inspect.signature(library().UNet2DModel.__init__).parameters
    assert {name: p.default for name, p in parameters.items() if name != "self"} == _DEFAULTS
    config = from_options({"sample_size": 64}).config
    assert config.model_channels == 224 and config.attn_resolutions == (32, 16, 8)


def test_published_networks():
    cd = {
        "sample_size": 64, "num_class_embeds": 1000, "layers_per_block": 3,
        "block_out_channels": [192, 384, 576, 768], "attention_head_dim": 64,
        "down_block_types": ["ResnetDownsampleBlock2D"] + 3 * ["AttnDownBlock2D"],
        "up_block_types": 3 * ["AttnUpBlock2D"] + ["ResnetUpsampleBlock2D"],
        "downsample_type": "resnet", "upsample_type": "resnet", "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift", "_class_name": "UNet2DModel",
    }  # fmt: skip
    config = from_options(cd).config
    assert config.attn_resolutions == (32, 16, 8) and config.channel_mult == (1, 2, 3, 4)
    assert config.resampling == "block" and config.adaptive_scale and config.max_groups == 32
    # The options of google/ddpm-cifar10-32.
    ddpm = {
        "act_fn": "silu", "attention_head_dim": None, "block_out_channels": [128, 256, 256, 256],
        "center_input_sample": False, "down_block_types": ["DownBlock2D", "AttnDownBlock2D",
        "DownBlock2D", "DownBlock2D"], "downsample_padding": 0, "flip_sin_to_cos": False,
        "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
        "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32,
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    }  # fmt: skip
    config = from_options(ddpm).config
    assert config.attn_resolutions == (16,) and config.conv_padding == "after"
    assert config.sin_first and config.endpoint and config.channels_per_head == 0


def test_a_predicted_variance_is_told():
    options = {**FAMILIES["ddpm"], "out_channels": 6}
    assert from_options(options).output_rows == 6
    assert from_options(options).config.img_channels == 3
    assert from_options(FAMILIES["ddpm"]).output_rows is None


def test_other_objects_are_not_models_of_diffusers():
    class UNet2DModel(torch.nn.Module):
        config = None

    assert from_module(torch.nn.Linear(1, 1)) is None
    assert from_module(UNet2DModel()) is None
    assert from_module(tiny("ddpm", sample_size=None), 16).config.img_resolution == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gated": True}, r"unknown options \['gated'\]"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier' is not supported"),
        ({"act_fn": "gelu"}, "act_fn='gelu' is not supported; supported are"),
        ({"center_input_sample": True}, "center_input_sample=True is not supported"),
        ({"center_input_sample": 0}, "center_input_sample=0 is not supported"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor=2"),
        ({"mid_block_type": None}, "mid_block_type=None is not supported"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"freq_shift": 0.5}, "freq_shift=0.5 is not supported"),
        ({"down_block_types": ("SkipDownBlock2D", "DownBlock2D", "DownBlock2D")},
         "down_block_types: 'SkipDownBlock2D' is not supported; supported are"),
        ({"down_block_types": ("DownBlock2D", 3, "DownBlock2D")}, "down_block_types: 3"),
        ({"down_block_types": ("DownBlock2D",)}, "must name 3 blocks"),
        ({"up_block_types": "UpBlock2D"}, "must name 3 blocks"),
        ({"up_block_types": ("UpBlock2D", "UpBlock2D", "UpBlock2D")}, "attention at different"),
        ({"downsample_type": "resnet"}, "some levels resample by convolutions and some"),
        ({"downsample_padding": 2}, "downsample_padding=2"),
        ({"attention_head_dim": 5}, r"attention_head_dim=5 does not divide \[16\] channels"),
        ({"norm_num_groups": 3}, r"norm_num_groups=3 does not divide \[8, 16, 16\]"),
        ({"norm_num_groups": None}, "norm_num_groups must be an integer"),
        ({"attn_norm_num_groups": 2}, "attn_norm_num_groups=2 with"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups=None with"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift='spatial'"),
        ({"out_channels": 4}, "out_channels=4 is not supported for in_channels=3"),
        ({"sample_size": None}, "sample_size=None is not supported; .* pass img_resolution"),
        ({"sample_size": [8, 4]}, "sample_size=\\[8, 4\\] is not supported"),
        ({"sample_size": 0}, "sample_size=0 must be in"),
        ({"sample_size": 6}, "img_resolution 6 does not divide by 4"),
        ({"layers_per_block": "2"}, "layers_per_block must be an integer in .*, got '2'"),
        ({"layers_per_block": 10**9}, "layers_per_block must be an integer in"),
        ({"layers_per_block": True}, "layers_per_block must be an integer in .*, got True"),
        ({"block_out_channels": []}, "block_out_channels must be a list of integers"),
        ({"block_out_channels": 8}, "block_out_channels must be a list of integers"),
        ({"block_out_channels": [8, -16, 16]}, "block_out_channels must be an integer in"),
        ({"block_out_channels": [8] * 13}, "13 entries; at most 12"),
        ({"norm_eps": "small"}, "norm_eps must be a finite number"),
        ({"norm_eps": -1.0}, "eps must be positive"),
        ({"dropout": float("nan")}, "dropout must be a finite number"),
        ({"num_class_embeds": 0}, "num_class_embeds must be an integer in"),
        ({"time_embedding_dim": -4}, "time_embedding_dim must be an integer in"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        from_options({**FAMILIES["ddpm"], **changes})


def test_options_of_later_versions_that_are_off_do_not_matter():
    off = {**FAMILIES["ddpm"], "gated": False, "extra": None, "_name_or_path": "x"}
    assert from_options(off) == from_options(FAMILIES["ddpm"])


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 64)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["conv", "resnet", "DownBlock2D", "AttnUpBlock2D", "scale_shift"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(st.sampled_from(sorted(_DEFAULTS)) | st.text(max_size=4), VALUES, max_size=3),
)
def test_any_json_value_is_refused_or_understood(family, changes):
    with contextlib.suppress(ValueError):
        from_options({**FAMILIES[family], **changes})
