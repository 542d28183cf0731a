"""`CTMModel`: the network's own output, kept by save_pretrained, refused when incomplete."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctm_fast.denoiser import Denoiser
from ctm_fast.integrations.diffusers_model import CTMModel
from ctm_fast.noise_embeddings import FlowTime, NoiseEmbedding
from ctm_fast.precond import Preconditioning

from .diffusers_worlds import denoiser, unit_noise

WEIGHTS = "diffusion_pytorch_model.safetensors"


def time(sigma: float) -> float:
    return 250 * math.log(sigma)


@pytest.mark.parametrize("embedding", ["quarter_log", "log_250", FlowTime()], ids=str)
@pytest.mark.parametrize("kind", ["trajectory", "consistency"])
def test_it_gives_the_networks_raw_output(kind: str, embedding: NoiseEmbedding) -> None:
    model = denoiser(kind, label_dim=3).eval()
    model.precond = Preconditioning(model.precond.inner, noise_embedding=embedding)
    wrapped = CTMModel.from_denoiser(model).eval()
    x, labels, sigma = unit_noise(2), torch.tensor([0, 2]), torch.full((2,), 7.0)
    lower = torch.full((2,), 0.5) if kind == "trajectory" else None
    with torch.no_grad():
        want = model.network(x, sigma, lower, labels, scaled=x)
        told = None if lower is None else time(0.5)
        got = wrapped(x, time(7.0), told, labels).sample
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        if told is not None:
            told = torch.full((2,), told)
        each = wrapped(x, torch.full((2,), time(7.0)), told, labels, return_dict=False)[0]
    torch.testing.assert_close(each, want, rtol=1e-4, atol=1e-4)


def test_weights_are_shared_and_a_denoiser_comes_back() -> None:
    model = denoiser(sigma_min=0.01, sigma_max=20.0)
    wrapped = CTMModel.from_denoiser(model)
    again = wrapped.to_denoiser()
    assert wrapped.net is model.net is again.net
    assert again.precond == model.precond and again.kind == model.kind
    assert (again.sigma_min, again.sigma_max) == (0.01, 20.0)
    assert not any(parameter.is_meta for parameter in wrapped.parameters())


def test_save_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = CTMModel.from_denoiser(denoiser("consistency", channels=2, sigma_max=20.0))
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", WEIGHTS}
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["kind"], stored["sigma_max"]) == ("consistency", 20.0)
    again, info = CTMModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not again.training and again.config.kind == "consistency" and not info["missing_keys"]
    assert again.precond == model.precond and again.net.config == model.net.config
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    half = CTMModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    with torch.no_grad():
        output = half(unit_noise(1, 2), 0.0).sample
        want = again(unit_noise(1, 2), 0.0).sample
    assert half.dtype == torch.bfloat16 and output.dtype == torch.float32
    assert (output - want).abs().max() < 0.1 * want.abs().max()


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_weights_that_do_not_fit_are_refused(change: str, tmp_path: Path) -> None:
    CTMModel.from_denoiser(denoiser()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    if change == "missing":
        weights.pop(next(iter(weights)))
    else:
        weights["net.stranger"] = torch.zeros(2)
    save_file(weights, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match="do not fit"):
        CTMModel.from_pretrained(tmp_path)


def test_refusals() -> None:
    trajectory, consistency = (denoiser(kind) for kind in ("trajectory", "consistency"))
    with pytest.raises(ValueError, match="kind is 'denoiser'"):
        CTMModel.from_denoiser(denoiser("denoiser"))
    with pytest.raises(ValueError, match="Linear cannot be rebuilt"):
        CTMModel.from_denoiser(Denoiser(torch.nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="needs the time it jumps to"):
        CTMModel.from_denoiser(trajectory)(unit_noise(1), 0.0)
    with pytest.raises(ValueError, match="takes none"):
        CTMModel.from_denoiser(consistency)(unit_noise(1), 0.0, -5.0)
    config = dict(CTMModel.from_denoiser(consistency).config)
    shown = {k: config[k] for k in ("network", "preconditioning")}
    with pytest.raises(ValueError, match="destination embedding"):
        CTMModel(**shown, kind="trajectory")
    with pytest.raises(ValueError, match="family"):
        CTMModel({"family": "unknown"}, shown["preconditioning"])
