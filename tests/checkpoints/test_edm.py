"""Network pickles of NVlabs/edm and locuslab/ect, and live modules of their classes."""

import dataclasses
import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from ctm_fast.checkpoints import edm
from ctm_fast.checkpoints.building import built
from ctm_fast.denoiser import Denoiser
from ctm_fast.models import SongConfig
from ctm_fast.models.configs import ADMConfig
from ctm_fast.models.key_layouts import to_published
from ctm_fast.noise_embeddings import DiscreteTime, VPTime
from ctm_fast.precond import EDM, Ect, Epsilon, Preconditioning, Score
from tests.checkpoints import edm_files
from tests.fixtures import assert_within, fixture_dir, load_fixture, load_weights, tolerance
from tests.models.tiny import randomised

SONG = SongConfig(
    img_resolution=8,
    img_channels=2,
    label_dim=3,
    augment_dim=4,
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    dropout=0.2,
)
NCSN = dataclasses.replace(
    SONG,
    embedding="fourier",
    encoder="residual",
    channel_mult_noise=2,
    resample_filter=(1, 3, 3, 1),
    label_dim=0,
    augment_dim=0,
)
SKIP = dataclasses.replace(
    SONG, img_resolution=16, channel_mult=(1, 1, 2), encoder="skip", decoder="skip"
)
ADM = ADMConfig(
    img_resolution=8,
    img_channels=2,
    label_dim=3,
    augment_dim=4,
    model_channels=32,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    min_group=4,
    dropout=0.2,
)
FIXTURE = "edm_songunet_ddpmpp"
CONFIGS = {"ddpm++": SONG, "ncsn++": NCSN, "skip": SKIP, "adm": ADM}
LEVELS = torch.tensor([0.01, 0.5, 40.0])
# Attributes of the published wrappers, and what they mean here.
WRAPPERS: dict[str, tuple[dict[str, Any], Preconditioning, str, tuple[float, float]]] = {
    "EDMPrecond": (
        {"sigma_min": 0, "sigma_max": math.inf, "sigma_data": 0.4},
        Preconditioning(EDM(0.4)),
        "denoiser",
        (0.002, 80.0),
    ),
    "VPPrecond": (
        {"beta_d": 19.0, "beta_min": 0.2, "M": 500, "sigma_min": 0.0015, "sigma_max": 130.0},
        Preconditioning(Epsilon(), noise_embedding=VPTime(19.0, 0.2, 500)),
        "denoiser",
        (0.0015, 130.0),
    ),
    "VEPrecond": (
        {"sigma_min": 0.02, "sigma_max": 100},
        Preconditioning(Score(), noise_embedding="half_log"),
        "denoiser",
        (0.02, 100.0),
    ),
    "ECMPrecond": (
        {"sigma_min": 0.003, "sigma_max": math.inf, "sigma_data": 0.5},
        Preconditioning(Ect(0.5, 0.003)),
        "consistency",
        (0.003, 80.0),
    ),
}


def network(config, seed=0):
    net = randomised(config, seed).float()
    return net, to_published(net.state_dict(), config, "edm")


def read(data, **overrides):
    found = edm.read(io.BytesIO(data), overrides)
    assert not overrides, f"left over: {overrides}"
    return found


def same_outputs(found, expected: Denoiser):
    config = expected.net.config
    x = torch.randn(3, config.img_channels, config.img_resolution, config.img_resolution)
    labels = torch.arange(3) if config.label_dim else None
    loaded = built(found)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(x, LEVELS, labels), expected(x, LEVELS, labels))
    return loaded


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_network_in_every_wrapper(name, wrapper):
    config = CONFIGS[name]
    net, state = network(config)
    attributes, precond, kind, levels = WRAPPERS[wrapper]
    file = edm_files.pickled(edm_files.network(config, state, wrapper, **attributes))
    found = read(file)
    assert found.config == config and found.layout == "edm" and found.format == "edm"
    assert found.precond == precond and found.kind == kind
    assert (found.sigma_min, found.sigma_max) == levels
    assert found.provenance == {
        "class": wrapper,
        "network": "DhariwalUNet" if name == "adm" else "SongUNet",
        "weights": "ema",
    }
    assert all(torch.equal(found.state[key], value) for key, value in state.items())
    limits = {"sigma_min": levels[0], "sigma_max": levels[1]}
    same_outputs(found, Denoiser(net, precond, kind=kind, **limits).eval())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_variance_of_iddpm_is_left_out(name):
    config = CONFIGS[name]
    net, state = network(config)
    ends = ("out_conv.weight", "out_conv.bias", "aux_conv.weight", "aux_conv.bias")
    wide = {
        key: torch.cat([value, torch.randn_like(value)]) if key.endswith(ends) else value
        for key, value in state.items()
    }
    assert sum(v.shape != state[k].shape for k, v in wide.items()) == (6 if name == "skip" else 2)
    outside = edm_files.network(
        config, wide, "iDDPMPrecond", out_channels=4, C_1=0.002, C_2=0.01, M=100
    )
    outside.register_buffer("u", edm_files.iddpm_table(100))
    found = read(edm_files.pickled(outside))
    time = DiscreteTime("iddpm", steps=100, max_beta=0.998, offset=0.01)
    assert found.precond == Preconditioning(Epsilon(), noise_embedding=time)
    assert (found.sigma_min, found.sigma_max) == (time.sigma_min, time.sigma_max)
    assert any("predicts 4 channels" in note for note in found.notes)
    same_outputs(found, Denoiser(net, found.precond).eval())


def test_overrides():
    _, state = network(SONG)
    file = edm_files.pickled(edm_files.network(SONG, state, "ECMPrecond", sigma_min=0.003))
    found = read(file, sigma_data=0.3, sigma_min=0.01, sigma_max=20.0, kind="denoiser", dropout=0.5)
    assert found.precond == Preconditioning(Ect(0.3, 0.003)) and found.kind == "denoiser"
    assert (found.sigma_min, found.sigma_max, found.config.dropout) == (0.01, 20.0, 0.5)
    trained = read(file, precond="edm")
    assert trained.precond == Preconditioning(EDM(0.5)) and trained.kind == "consistency"
    assert not any("boundary shift" in note for note in trained.notes)
    assert any("boundary shift 0.003" in note for note in read(file).notes)


def test_another_network_of_the_file():
    nets = {seed: network(SONG, seed)[1] for seed in (0, 1)}
    ema, net = (edm_files.network(SONG, nets[seed]) for seed in (0, 1))
    file = edm_files.pickled(ema, net=net)
    found = read(file, which="net")
    assert torch.equal(found.state["map_layer0.weight"], nets[1]["map_layer0.weight"])
    assert found.provenance["weights"] == "net"
    with pytest.raises(ValueError, match=r"no network 'raw'; its networks are \['ema', 'net'\]"):
        read(file, which="raw")


def test_notes_say_what_was_assumed():
    _, state = network(SONG)
    notes = read(edm_files.pickled(edm_files.network(SONG, state, use_fp16=True))).notes
    assert any(note.startswith("sigma_min=0.002") for note in notes)
    assert any(note.startswith("sigma_max=80") for note in notes)
    assert any("float16" in note for note in notes)


def test_a_path_and_its_name(tmp_path):
    _, state = network(SONG)
    path = tmp_path / "network-snapshot-000100.pkl"
    path.write_bytes(edm_files.pickled(edm_files.network(SONG, state)))
    for source in (path, str(path)):
        assert edm.read(source, {}).provenance["file"] == path.name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{path.name}: truncated"):
        edm.read(path, {})
    with pytest.raises(ValueError, match="does not exist"):
        edm.read(tmp_path / "none.pkl", {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner": {"windows": 7}}, "arguments that no network here has: windows=7"),
        ({"out_channels": 4}, "out_channels=4"),
        ({"wrapper": "Precond"}, "EDM2: magnitude-preserving networks are not supported"),
        ({"wrapper": "Generator"}, "class 'Generator'; known are"),
        ({"sigma_data": "half"}, "sigma_data is a str, not a number"),
        ({"wrapper": "iDDPMPrecond"}, "2 output channels for 2 of the image"),
    ],
)
def test_what_cannot_be_expressed_is_named(change, message):
    _, state = network(SONG)
    with pytest.raises(ValueError, match=message):
        read(edm_files.pickled(edm_files.network(SONG, state, **change)))


def test_missing_and_left_over_tensors():
    _, state = network(SONG)
    short = dict(state)
    del short["map_layer1.bias"]
    with pytest.raises(ValueError, match=r"missing 1 \(map_layer1.bias\)"):
        built(read(edm_files.pickled(edm_files.network(SONG, short))))
    with pytest.raises(ValueError, match=r"left over 1 \(map_layer2.bias\)"):
        long = {**state, "map_layer2.bias": torch.zeros(3)}
        built(read(edm_files.pickled(edm_files.network(SONG, long))))
    outside = edm_files.network(SONG, state)
    outside.model = None
    with pytest.raises(ValueError, match="has no network 'model'"):
        read(edm_files.pickled(outside))


def live(config, state, wrapper, recorded=True, **attributes):
    """A module whose classes have the published names, as in the original code base."""
    classes = {}

    def turned(module):
        name = vars(module).get("shown_as")
        if name is not None:
            classes.setdefault(name, type(name, (nn.Module,), {}))
            module.__class__ = classes[name]
        for child in module.children():
            turned(child)
        return module

    module = edm_files.network(config, state, wrapper, **attributes)
    if not recorded:
        for part in (module, module.model):
            del part.__dict__["_init_args"], part.__dict__["_init_kwargs"]
    return turned(module)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_live_modules(name, wrapper, recorded):
    config = CONFIGS[name]
    net, state = network(config)
    attributes, precond, kind, levels = WRAPPERS[wrapper]
    module = live(config, state, wrapper, recorded, **attributes)
    assert edm.is_known(module)
    for outside in (module, nn.DataParallel(module)):
        found = edm.read(outside, {})
        assert found.precond == precond and found.kind == kind
        assert (found.sigma_min, found.sigma_max) == levels
        assert dataclasses.replace(found.config, dropout=0.2) == config
    limits = {"sigma_min": levels[0], "sigma_max": levels[1]}
    same_outputs(found, Denoiser(net, precond, kind=kind, **limits).eval())
    assert module.state_dict().keys() == {f"model.{key}" for key in state}


def test_a_live_network_without_its_wrapper():
    net, state = network(SONG)
    found = edm.from_module(live(SONG, state, "EDMPrecond").model)
    assert found.config == SONG and found.precond == Preconditioning(EDM(0.5))
    assert any("without its wrapper" in note for note in found.notes)
    same_outputs(found, Denoiser(net).eval())


def test_other_modules_are_not_known():
    assert not edm.is_known(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="class 'Linear'; known are"):
        edm.from_module(nn.Linear(2, 2))


@pytest.mark.parametrize("name", [name for name in [FIXTURE] if fixture_dir(name)])
def test_outputs_recorded_from_the_published_code(name):
    tensors, meta = load_fixture(name)
    state = {key.removeprefix("model."): v for key, v in load_weights(name).items()}
    fields = {field.name for field in dataclasses.fields(SongConfig)}
    made = {key: value for key, value in meta["constructor"].items() if key in fields}
    sizes = {key: tuple(v) if isinstance(v, list) else v for key, v in made.items()}
    outside = edm_files.network(SongConfig(**sizes), state, sigma_min=0, sigma_max=math.inf)
    model = built(read(edm_files.pickled(outside)))
    for index, sigma in enumerate(tensors["sigmas"].tolist()):
        x = tensors["y"] + sigma * tensors["n"]
        for label, labels in (("D", tensors["class_labels"]), ("D_nolabel", None)):
            with torch.no_grad():
                denoised = model(x, sigma, labels)
            recorded = f"{label}_{index}"
            assert_within(denoised, tensors[recorded], tolerance(meta, recorded))
