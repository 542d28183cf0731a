"""SongUNet against plain functions and recorded outputs of NVlabs/edm."""

import dataclasses
import itertools

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.models import SongConfig, net_from_config
from ctm_fast.models.key_layouts import from_published, to_published
from tests.fixtures import assert_within, fixture_dir, load_fixture, load_weights, tolerance
from tests.models import reference
from tests.models.tiny import SONG, inputs, randomised


def state_of(net):
    state = to_published(net.state_dict(), net.config, "edm")
    return {name: value.double() for name, value in state.items()}


VARIANTS = [
    {"encoder": encoder, "decoder": decoder, "resample_filter": taps}
    for encoder, decoder, taps in itertools.product(
        ("standard", "skip", "residual"), ("standard", "skip"), ((1, 1), (1, 3, 3, 1))
    )
] + [
    {"embedding": "fourier", "channel_mult_noise": 2, "fourier_scale": 0.5},
    {"adaptive_scale": True},
    {"channel_mult": (1, 2, 3), "num_blocks": 2, "attn_resolutions": (8, 4)},
    {"label_dim": 0},
]


@pytest.mark.parametrize("destination", [False, True])
@pytest.mark.parametrize("change", VARIANTS, ids=str)
def test_network_equals_its_formula(change, destination):
    config = dataclasses.replace(SONG, destination=destination, **change)
    net, given = randomised(config), inputs(config)
    onehot = given["onehot"] if config.label_dim else None
    to = given["c_noise_to"] if destination else None
    for labels, augment in ((onehot, given["augment"]), (None, None)):
        args = (given["x"], given["c_noise"], to, labels, augment)
        found, expected = net(*args), reference.song(state_of(net), config, *args)
        assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def test_destination_is_needed():
    net = net_from_config(dataclasses.replace(SONG, destination=True))
    with pytest.raises(ValueError, match="needs c_noise_to"):
        net(torch.zeros(1, 2, 8, 8), torch.zeros(1))


def test_labels_reach_the_destination_branch():
    config = dataclasses.replace(SONG, destination=True)
    net, given = randomised(config), inputs(config)
    level = given["c_noise"]
    plain = net.embed(level, level, None, None)[1]
    assert not torch.allclose(net.embed(level, level, given["classes"], None)[1], plain)


def test_initial_weights():
    net = net_from_config(dataclasses.replace(SONG, destination=True))
    state = net.state_dict()
    assert not any(value.any() for name, value in state.items() if name.endswith("bias")
                   and "norm" not in name)  # fmt: skip
    block = "dec.8x8.block0."
    largest = {k: state[block + k + ".weight"].abs().max().item() for k in ("conv0", "conv1")}
    assert largest["conv1"] < 2e-5 < 0.01 < largest["conv0"]
    assert state["outputs.8x8.conv.weight"].abs().max() < 2e-5
    assert state["enc.4x4.block0.proj.weight"].abs().max() < 2e-5
    assert state["map_layer0_to.weight"].std() > 0.01
    assert state[block + "affine_to.weight"].std() > 0.01
    assert net.last_layer.weight is net.outputs["8x8"].conv.weight


def test_seeds():
    first, same, other = (net_from_config(SONG, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], same[k]) for k in first)
    assert not torch.equal(first["input_conv.weight"], other["input_conv.weight"])


FIXTURE = "edm_songunet_ddpmpp"
recorded = pytest.mark.skipif(fixture_dir(FIXTURE) is None, reason="fixture folder not present")


def recorded_network():
    tensors, meta = load_fixture(FIXTURE)
    given = meta["constructor"]
    names = {field.name for field in dataclasses.fields(SongConfig)}
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in names}
    config = SongConfig(
        embedding=given["embedding_type"],
        encoder=given["encoder_type"],
        decoder=given["decoder_type"],
        **fields,
    )
    net = net_from_config(config).eval()
    net.load_state_dict(from_published(load_weights(FIXTURE), config, "edm"))
    return net, tensors, meta


@recorded
def test_recorded_outputs():
    net, t, meta = recorded_network()
    x, level, labels = t["x_raw"], t["c_noise"], t["class_labels"]
    with torch.no_grad():
        found = {
            "F": net(x, level, labels=labels),
            "F_small": net(0.01 * x, level, labels=labels),
            "F_nolabel": net(x, level),
            "F_soft": net(x, level, labels=t["class_labels_soft"]),
            "F_aug": net(x, level, labels=labels.argmax(1), augment_labels=t["augment_labels"]),
        }
        net.double()
        x, level = x.double(), level.double()
        found["F_f64"] = net(x, level, labels=labels)
        found["F_small_f64"] = net(0.01 * x, level, labels=labels)
    for name, value in found.items():
        assert_within(value, t[name], tolerance(meta, name))


@recorded
def test_recorded_gradients():
    net, t, meta = recorded_network()
    x = t["x_raw"].clone().requires_grad_()
    out = net(x, t["c_noise"], labels=t["class_labels"], augment_labels=t["augment_labels"])
    (t["v"] * out).sum().backward()
    assert_within(x.grad, t["vjp_x"], tolerance(meta, "vjp_x"))
    gradients = {name: p.grad for name, p in net.named_parameters()}
    published = to_published(gradients, net.config, "edm")
    norms = torch.stack([published[name].norm() for name in meta["param_names"]])
    assert_within(norms, t["param_grad_norms"], tolerance(meta, "param_grad_norms"))


@recorded
def test_recorded_denoiser():
    net, t, meta = recorded_network()
    denoiser = Denoiser(net)
    labels = t["class_labels"]
    with torch.no_grad():
        for i, sigma in enumerate(t["sigmas"]):
            x = t["y"] + sigma * t["n"]
            for name, y in ((f"D_{i}", labels), (f"D_nolabel_{i}", None)):
                assert_within(denoiser(x, sigma, y), t[name], tolerance(meta, name))
        sigma = t["sigma_vec"]
        x = t["y"] + sigma[:, None, None, None] * t["n"]
        for name, found in (
            ("D_vec", denoiser(x, sigma, labels)),
            ("D_vec_aug", denoiser(x, sigma, labels, augment_labels=t["augment_labels"])),
            ("D_vec_x64", denoiser(x.double() + 1e-9, sigma.double() * (1 + 1e-10), labels)),
            ("D_vec_f64", Denoiser(net.double())(x.double(), sigma.double(), labels)),
        ):
            assert_within(found, t[name], tolerance(meta, name))


@recorded
def test_plain_functions_equal_recorded_outputs():
    """The formulas that stand in where the recorded outputs are not present."""
    net, t, meta = recorded_network()
    state = {k: v.double() for k, v in load_weights(FIXTURE).items()}
    state = {k.removeprefix("model."): v for k, v in state.items()}
    x, level, labels = (t[k].double() for k in ("x_raw", "c_noise", "class_labels"))
    found = reference.song(state, net.config, x, level, None, labels)
    assert_within(found, t["F_f64"], tolerance(meta, "F_f64"))
