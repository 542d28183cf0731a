"""Networks filled one tensor at a time: the same as usual, or refused before any work."""

import dataclasses
import time

import pytest
import torch

from ctm_fast import models
from ctm_fast.checkpoints import DamagedCheckpoint
from ctm_fast.checkpoints.building import built, check_plausible, common_dtype, fill
from ctm_fast.checkpoints.found import Found
from ctm_fast.models.key_layouts import to_published
from ctm_fast.precond import EDM, Preconditioning

NETS = {
    "song": models.build("ctm-digits", model_channels=8, channel_mult=(1, 1), seed=4),
    "ncsnpp": models.build(
        "ncsnpp-cifar10", img_resolution=8, model_channels=8, num_blocks=1, attn_resolutions=(4,)
    ),
    "adm": models.build(
        "adm-imagenet64",
        img_resolution=8,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        label_dim=3,
        attn_resolutions=(4,),
        channels_per_head=16,
    ),
}


def found(name="song", dtype=torch.float32, **changes) -> Found:
    net = NETS[name]
    layout = "adm" if name == "adm" else "edm"
    state = {
        k: v.clone().to(dtype)
        for k, v in to_published(net.state_dict(), net.config, layout).items()
    }
    kind = "trajectory" if net.has_destination else "denoiser"
    rest = {"kind": kind, "sigma_min": 0.01, "sigma_max": 50.0, "notes": ["a guess"]}
    precond = Preconditioning(EDM(0.3))
    values = {"config": net.config, "layout": layout, "state": state, "precond": precond, **rest}
    return Found(**{"format": "test", **values, **changes})


@pytest.mark.parametrize("name", NETS)
def test_the_network_is_the_one_that_was_published(name):
    what = found(name)
    model, net = built(what), NETS[name].eval()
    x = torch.randn(2, net.img_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    to = torch.tensor([-1.0, -1.0]) if net.has_destination else None
    level = torch.tensor([0.1, 0.4])
    assert torch.equal(model.net(x, level, to), net(x, level, to))
    for key, value in net.state_dict().items():
        own = model.net.state_dict()[key]
        assert own.stride() == value.stride(), f"{key} is in another memory order"
        assert own.untyped_storage().nbytes() == own.nbytes, f"{key} shares memory"
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert all(weight.requires_grad for weight in model.parameters())
    assert not model.training
    assert what.state == {}, "weights were kept"


def test_what_surrounds_the_network():
    model = built(found(), dtype=torch.bfloat16)
    assert (model.kind, model.sigma_min, model.sigma_max) == ("trajectory", 0.01, 50.0)
    assert model.sigma_data == 0.3
    assert model.notes == ("a guess",)
    assert model.dtype == torch.bfloat16
    assert not any("notes" in key for key in model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stay_as_wide_as_they_are(dtype):
    model = built(found("adm", dtype))
    assert {weight.dtype for weight in model.parameters()} == {dtype}


def test_common_dtype():
    half, full, wide = torch.float16, torch.float32, torch.float64
    assert common_dtype({"a": half, "b": half}) == half
    assert common_dtype({"a": half, "b": torch.bfloat16}) == full
    assert common_dtype({"a": half, "b": wide}) == wide
    assert common_dtype({"a": torch.float8_e4m3fn}) == full
    with pytest.raises(ValueError, match=r"floating-point.*: b"):
        common_dtype({"a": full, "b": torch.int64})


def test_names_and_shapes_that_do_not_fit():
    missing, extra, reshaped = found(), found(), found()
    gone = next(iter(missing.state))
    del missing.state[gone]
    with pytest.raises(ValueError, match=gone):
        built(missing)
    extra.state["surplus"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"left over.*surplus"):
        built(extra)
    name = next(key for key, value in reshaped.state.items() if value.ndim == 4)
    reshaped.state[name] = reshaped.state[name][:, :-1]
    with pytest.raises(ValueError, match=name):
        built(reshaped)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value):
    poisoned = found()
    poisoned.state["map_layer0.weight"][0, 0] = value
    with pytest.raises(DamagedCheckpoint, match=r"not finite: map_layer0\.weight"):
        built(poisoned)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "miracle"}, "miracle"),
        ({"sigma_min": 0.0}, "sigma_min must be a finite number > 0"),
        ({"sigma_max": float("nan")}, "sigma_max must be a finite number"),
        ({"sigma_max": "high"}, "'high'"),
        ({"sigma_max": 0.001}, "sigma_max"),
        ({"precond": Preconditioning(EDM(float("inf")))}, "sigma_data must be a finite"),
    ],
)
def test_what_surrounds_the_network_is_refused_first(changes, text):
    what = found(**changes)
    with pytest.raises(ValueError, match=text):
        built(what)
    assert what.state, "the weights were touched"


@pytest.mark.parametrize(
    "change", [{"num_blocks": 10**7}, {"model_channels": 10**8}, {"channel_mult_noise": 10**8}]
)
def test_descriptions_of_monsters_are_refused_at_once(change):
    what = found()
    start = time.perf_counter()
    with pytest.raises(ValueError, match=f"{next(iter(change))}=.* does not fit"):
        check_plausible(dataclasses.replace(what.config, **change), what.state)
    assert time.perf_counter() - start < 1


def test_fill_names_what_is_not_finite():
    with torch.device("meta"):
        net = models.net_from_config(NETS["song"].config)
    weights = {**NETS["song"].state_dict(), "input_conv.bias": torch.full((8,), float("nan"))}
    assert fill(net, weights.__getitem__, torch.float32) == ["input_conv.bias"]
