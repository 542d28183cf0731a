"""States from files, mappings and modules, and what file names say."""

import pytest
import torch

from ctm_fast.checkpoints.sources import described, open_state, provenance_of
from ctm_fast.models import net_from_config
from ctm_fast.models.key_layouts import to_published
from tests.models.tiny import ADM, SONG


def published(config, layout, prefix=""):
    return to_published(net_from_config(config).state_dict(), config, layout, prefix)


def test_sources_of_a_state(tmp_path):
    state = published(SONG, "edm", "module.model.")
    torch.save({"ema": state, "step": 1}, tmp_path / "x.pt")
    overrides = {"which": "ema", "kind": "denoiser"}
    found, name, notes = open_state(str(tmp_path / "x.pt"), overrides)
    assert name == "x.pt" and len(notes) == 1 and overrides == {"kind": "denoiser"}
    assert found.keys() == published(SONG, "edm").keys()
    again, name, notes = open_state(state, {})
    assert (again.keys(), name, notes) == (found.keys(), "", [])
    assert all(key.startswith("module.model.") for key in state), "the caller's is left alone"
    net = net_from_config(SONG)
    assert open_state(net, {})[0].keys() == net.state_dict().keys()


@pytest.mark.parametrize("source", [3, None, {"a": 1}, {1: torch.zeros(1)}])
def test_other_sources(source):
    with pytest.raises(ValueError, match=r"need a path|maps names to tensors"):
        open_state(source, {})


@pytest.mark.parametrize(("config", "layout", "layer"),
                         [(ADM, "adm", "out.2"), (SONG, "edm", "dec.8x8_aux_conv")])  # fmt: skip
def test_variance_is_left_out(config, layout, layer):
    state = published(config, layout)
    weight = torch.randn(4, *state[f"{layer}.weight"].shape[1:])
    state |= {f"{layer}.weight": weight, f"{layer}.bias": torch.arange(4.0)}
    source = described(state, "", [], {})
    assert torch.equal(source.state[f"{layer}.weight"], weight[:2])
    assert source.state[f"{layer}.bias"].tolist() == [0, 1]
    assert "the network predicts 4 channels; 2 are the image's" in source.notes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ema_0.999_049000.pt", {"ema_decay": 0.999, "step": 49000}),
        ("ema_0.9999432189950708_1000000.pt", {"ema_decay": 0.9999432189950708, "step": 1000000}),
        ("model010000.pt", {"step": 10000}),
        ("target_model010000.pt", {"step": 10000, "weights": "target"}),
        ("cd_imagenet64_l2.pt", {}),
    ],
)
def test_what_file_names_say(name, said):
    assert provenance_of(name) == {"file": name, **said}
    assert provenance_of("") == {}
