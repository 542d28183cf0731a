"""ADMUNet against plain functions and recorded outputs of sony/ctm."""

import dataclasses

import pytest
import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.models import ADMConfig, net_from_config
from ctm_fast.models.key_layouts import from_published, to_published
from ctm_fast.precond import CM, EDM, Euler, EulerVarianceMixed, Plain, Preconditioning, Variance
from tests.fixtures import assert_within, fixture_dir, load_fixture, load_weights, tolerance
from tests.models import reference
from tests.models.tiny import ADM, inputs, randomised


def state_of(net, layout):
    return {k: v.double() for k, v in to_published(net.state_dict(), net.config, layout).items()}


VARIANTS = [
    {},
    {"channels_per_head": 16},
    {"channel_mult": (1, 2, 3), "num_blocks": 2, "attn_resolutions": (8, 2)},
    {"channel_mult": (2, 1), "attn_resolutions": (8,)},
    {"label_dim": 0},
    {"adaptive_scale": False},
    {"channels_per_head": 0},
    {"channels_per_head": 0, "num_heads": 4},
    {"resampling": "conv"},
    {"resampling": "conv", "conv_padding": "after", "adaptive_scale": False, "eps": 1e-6,
     "sin_first": True, "endpoint": True, "channel_mult": (1, 2, 2), "attn_resolutions": (4,)},
    {"resampling": "conv", "max_groups": 8, "eps": 0.1, "model_channels": 16,
     "channel_mult": (2, 3), "channel_mult_noise": 2, "channels_per_head": 8},
]  # fmt: skip


@pytest.mark.parametrize("layout", ["adm", "adm-legacy"])
@pytest.mark.parametrize("change", VARIANTS, ids=str)
def test_network_equals_its_formula(change, layout):
    config = dataclasses.replace(ADM, destination=True, **change)
    net, given = randomised(config), inputs(config)
    rows = "3,head,dim" if layout == "adm" else "head,3,dim"
    state, level, to = state_of(net, layout), 100 * given["c_noise"], 100 * given["c_noise_to"]
    classes = given["classes"] if config.label_dim else None
    for destination, labels in ((to, classes), (None, None), (to, None)):
        args = (given["x"], level, destination, labels)
        found, expected = net(*args), reference.adm(state, config, *args, rows=rows)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("change", [{}, {"channels_per_head": 16}, {"model_channels": 16,
                         "channels_per_head": 32}, {"label_dim": 0}])  # fmt: skip
def test_edm_flavour_equals_its_formula(change):
    config = dataclasses.replace(ADM, min_group=4, augment_dim=2, **change)
    net, given = randomised(config), inputs(config)
    onehot = given["onehot"] if config.label_dim else None
    for labels, augment in ((onehot, given["augment"]), (None, None)):
        args = (given["x"], given["c_noise"])
        found = net(*args, labels=labels, augment_labels=augment)
        expected = reference.dhariwal(state_of(net, "edm"), config, *args, labels, augment)
        assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def test_no_bottleneck_attention():
    config = dataclasses.replace(ADM, bottleneck_attention=False, attn_resolutions=())
    assert not any("qkv" in name for name in net_from_config(config).state_dict())


def test_labels_do_not_reach_the_destination_branch():
    config = dataclasses.replace(ADM, destination=True)
    net, given = randomised(config), inputs(config)
    level = given["c_noise"]
    plain, classed = (net.embed(level, level, y, None) for y in (None, given["classes"]))
    assert torch.equal(plain[1], classed[1]) and not torch.equal(plain[0], classed[0])


def test_initial_weights():
    net = net_from_config(dataclasses.replace(ADM, destination=True))
    state = net.state_dict()
    for name in ("enc.8x8.block0.conv1", "dec.4x4.in0.proj", "outputs.8x8.conv"):
        assert not state[name + ".weight"].any() and not state[name + ".bias"].any()
    for name in ("map_layer1_to", "enc.8x8.block0.affine_to", "enc.8x8.block0.conv0"):
        weight, bias = state[name + ".weight"], state[name + ".bias"]
        bound = weight[0].numel() ** -0.5
        assert 0.9 * bound < weight.abs().max() <= bound
        assert 0.5 * bound < bias.abs().max() <= bound
    assert net.last_layer is net.dec["8x8"]["block1"].conv1
    assert state["map_label.weight"].std().item() == pytest.approx(1.0, rel=0.2)


FIXTURE = "ctm_imagenet_unet"
recorded = pytest.mark.skipif(fixture_dir(FIXTURE) is None, reason="fixture folder not present")


def recorded_network():
    tensors, meta = load_fixture(FIXTURE)
    given = meta["constructor"]
    config = ADMConfig(
        img_resolution=given["image_size"],
        img_channels=given["in_channels"],
        label_dim=given["num_classes"],
        model_channels=given["model_channels"],
        channel_mult=tuple(given["channel_mult"]),
        num_blocks=given["num_res_blocks"],
        attn_resolutions=tuple(given["image_size"] // n for n in given["attention_resolutions"]),
        channels_per_head=given["num_head_channels"],
        dropout=given["dropout"],
        destination=True,
    )
    net = net_from_config(config).eval()
    net.load_state_dict(from_published(load_weights(FIXTURE), config, "adm"))
    return net, tensors, meta


@recorded
def test_recorded_outputs():
    net, t, meta = recorded_network()
    x, level, to, labels = (t[k] for k in ("x_raw", "rt_raw", "rs_raw", "y_raw"))
    with torch.no_grad():
        found = {
            "F_ts": net(x, level, to, labels),
            "F_t": net(x, level, None, labels),
            "F_ts_small": net(0.01 * x, level, to, labels),
        }
        net.double()
        x, level, to = x.double(), level.double(), to.double()
        found["F_ts_f64"] = net(x, level, to, labels)
        found["F_ts_small_f64"] = net(0.01 * x, level, to, labels)
    for name, value in found.items():
        assert_within(value, t[name], tolerance(meta, name))


@recorded
def test_recorded_gradients():
    net, t, meta = recorded_network()
    x = t["x_raw"].clone().requires_grad_()
    (t["v"] * net(x, t["rt_raw"], t["rs_raw"], t["y_raw"])).sum().backward()
    assert_within(x.grad, t["vjp_x"], tolerance(meta, "vjp_x"))
    gradients = {name: p.grad for name, p in net.named_parameters()}
    published = to_published(gradients, net.config, "adm")
    norms = torch.stack([published[name].norm() for name in meta["param_names"]])
    assert_within(norms, t["param_grad_norms"], tolerance(meta, "param_grad_norms"))


INNER = {"edm": EDM(), "cm": CM(), "no": Plain()}
OUTER = {"euler": Euler(), "variance": Variance(), "euler_variance_mixed": EulerVarianceMixed()}


def outputs(denoiser, t, to):
    x, sigma, labels = t["x_t"], t["t"], t["y"]
    raw = denoiser.network(x, sigma, to, labels)
    column = lambda v: v.reshape(-1, 1, 1, 1)  # noqa: E731
    P, Q = denoiser.precond.denoise_coefficients(sigma)
    return column(P) * x + column(Q) * raw


@recorded
def test_recorded_parametrisations():
    net, t, meta = recorded_network()
    with torch.no_grad():
        for outer, inner in ((o, i) for o in OUTER for i in INNER):
            precond = Preconditioning(INNER[inner], OUTER[outer], "log_250")
            model = Denoiser(net, precond)
            found = {
                f"G_{outer}_{inner}": model.jump(t["x_t"], t["t"], t["s"], t["y"]),
                f"denoised_{outer}_{inner}": outputs(model, t, t["s"]),
            }
            for name, value in found.items():
                assert_within(value, t[name], tolerance(meta, name))


@recorded
def test_recorded_teacher_and_consistency_paths():
    net, t, meta = recorded_network()
    with torch.no_grad():
        for name, inner, kind in (
            ("teacher_denoised", EDM(), "denoiser"),
            ("cm_denoised", CM(), "consistency"),
        ):
            model = Denoiser(net, Preconditioning(inner, Euler(), "log_250"), kind=kind)
            assert_within(model(t["x_t"], t["t"], t["y"]), t[name], tolerance(meta, name))


@recorded
def test_recorded_float64():
    net, t, meta = recorded_network()
    model = Denoiser(net.double(), Preconditioning(EDM(), Euler(), "log_250"))
    t64 = {k: v.double() if v.is_floating_point() else v for k, v in t.items()}
    with torch.no_grad():
        G = model.jump(t64["x_t"], t64["t"], t64["s"], t["y"])
        assert_within(G, t["G_f64"], tolerance(meta, "G_f64"))
        found = outputs(model, t64, t64["s"])
        assert_within(found, t["denoised_f64"], tolerance(meta, "denoised_f64"))


@recorded
def test_plain_functions_equal_recorded_outputs():
    """The formulas that stand in where the recorded outputs are not present."""
    net, t, meta = recorded_network()
    state = {k: v.double() for k, v in load_weights(FIXTURE).items()}
    x, level, to = (t[k].double() for k in ("x_raw", "rt_raw", "rs_raw"))
    found = reference.adm(state, net.config, x, level, to, t["y_raw"])
    assert_within(found, t["F_ts_f64"], tolerance(meta, "F_ts_f64"))
