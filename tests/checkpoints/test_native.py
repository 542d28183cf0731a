"""Model files: exact round trip and clear refusals."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ctm_fast import models
from ctm_fast.checkpoints import DamagedCheckpoint
from ctm_fast.checkpoints.files import checksum
from ctm_fast.checkpoints.native import header, load, save
from ctm_fast.denoiser import Denoiser
from ctm_fast.precond import CM, EDM, Preconditioning, Variance
from ctm_fast.wrappers.guidance import Guided


def model(name="ctm-digits", precond=None, **options):
    """Tiny model whose weights are all drawn."""
    net = models.build(name, model_channels=8, channel_mult=(1, 1))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 8)
    return Denoiser(net, precond or Preconditioning(EDM(0.75)), **options).eval()


def rewritten(path, change):
    """Replace a file's tensors and header by `change(tensors, header)`, checksum renewed."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = json.loads(file.metadata()["ctm_fast"])
    del found["sha256"]
    change(tensors, found)
    text = json.dumps({**found, "sha256": checksum(tensors, found)})
    save_file(tensors, path, metadata={"ctm_fast": text})


@pytest.fixture
def path(tmp_path):
    return save(model(), tmp_path / "model.safetensors", step=5, data="digits")


MODELS = {
    "trajectory": dict(sigma_max=40.0),
    "consistency": dict(precond=Preconditioning(CM(0.6)), kind="consistency", name="digits"),
    "denoiser": dict(name="digits", sigma_min=0.01),
    "variance": dict(precond=Preconditioning(EDM(0.4), Variance(), "log_250")),
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_round_trip(tmp_path, options):
    before = model(**options)
    after = load(save(before, tmp_path / "a.safetensors"))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma, labels = torch.tensor([1.0, 30.0]), torch.tensor([3, 9])
    assert torch.equal(after(x, sigma, labels), before(x, sigma, labels))
    if before.kind != "denoiser":
        low = before.sigma_min
        assert torch.equal(after.jump(x, sigma, low, labels), before.jump(x, sigma, low, labels))
    for name in ("kind", "precond", "sigma_min", "sigma_max"):
        assert getattr(after, name) == getattr(before, name)
    assert not after.training
    assert after.net.config == before.net.config


def test_the_header_says_what_the_file_is(path):
    found = header(path)
    assert found["kind"] == "trajectory"
    assert found["sigma_data"] == 0.75
    assert found["provenance"] == {"step": 5, "data": "digits"}
    assert found["version"] == 1
    assert found["net"]["model_channels"] == 8
    assert "sha256" not in found


def test_dtype_and_overrides(path):
    loaded = load(path, dtype=torch.bfloat16, sigma_max=10.0, kind="consistency")
    assert loaded.dtype == torch.bfloat16
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert loaded.sigma_max == 10.0
    assert loaded.kind == "consistency"
    with pytest.raises(ValueError, match=r"sigma_mx.*sigma_max"):
        load(path, sigma_mx=3)


def test_a_denoiser_cannot_be_loaded_as_a_trajectory_model(tmp_path):
    path = save(model("digits"), tmp_path / "teacher.safetensors")
    with pytest.raises(ValueError, match="destination embedding"):
        load(path, kind="trajectory")


def test_saving_what_cannot_be_loaded_again_is_refused(tmp_path):
    good, path = model(), tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        save(good, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="does not exist"):
        save(good, tmp_path / "absent" / "a.safetensors")
    with pytest.raises(ValueError, match="must be JSON"):
        save(good, path, data=object())
    with pytest.raises(ValueError, match="must be JSON"):
        save(good, path, step=float("nan"))
    with pytest.raises(ValueError, match="Conv2d has no config"):
        save(Denoiser(nn.Conv2d(1, 1, 1)), path)
    with torch.no_grad():
        next(good.parameters())[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        save(good, path)
    assert list(tmp_path.iterdir()) == []


def test_a_group_of_models_is_refused(tmp_path):
    good, bad = model(), model()
    with pytest.raises(ValueError, match="Guided has no config"):
        save(Guided(good, bad), tmp_path / "guided.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_truncated_and_altered_files(path):
    data = path.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.99):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DamagedCheckpoint, match=r"model\.safetensors"):
            load(path)
    for share in (0.3, 0.6, 0.95):
        at = int(len(data) * share)
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :])
        with pytest.raises(DamagedCheckpoint, match="checksum"):
            load(path)


def test_weights_have_to_fit_the_network(path):
    data = path.read_bytes()

    def missing(tensors, found):
        del tensors[next(iter(tensors))]

    def extra(tensors, found):
        tensors["surplus"] = torch.zeros(1)

    def reshaped(tensors, found):
        name = next(name for name, value in tensors.items() if value.ndim == 4)
        tensors[name] = tensors[name][:, :1].contiguous()

    def poisoned(tensors, found):
        next(value for value in tensors.values() if value.ndim == 4)[0] = float("nan")

    for change, text in (
        (missing, "missing"),
        (extra, "unexpected surplus"),
        (reshaped, "its network needs"),
        (poisoned, "not finite"),
    ):
        path.write_bytes(data)
        rewritten(path, change)
        with pytest.raises(DamagedCheckpoint, match=text):
            load(path)


HEADERS = [
    ({"version": 2}, "version 2"),
    ({"version": None}, "version None"),
    ({"format": "dance"}, "unknown format 'dance'"),
    ({"format": "training"}, "training checkpoint"),
    ({"kind": "miracle"}, "miracle"),
    ({"net": {"family": "song", "model_chanels": 8}}, "cannot be built"),
    ({"net": {"family": "os"}}, "cannot be built"),
    ({"net": 5}, "cannot be built"),
    ({"precond": {"inner": {"name": "edm"}}}, "cannot be built"),
    ({"sigma_min": 100.0}, "sigma_min"),
    ({"sigma_min": "low"}, "cannot be built"),
]


@pytest.mark.parametrize(("change", "text"), HEADERS)
def test_headers_that_describe_nothing_known(path, change, text):
    rewritten(path, lambda tensors, found: found.update(change))
    with pytest.raises(ValueError, match=text):
        load(path)


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="is a folder"):
        load(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="not one of ctm_fast"):
        load(foreign)
    hostile = tmp_path / "hostile.pkl"
    hostile.write_bytes(pickle.dumps(_Hostile()))
    with pytest.raises(ValueError, match="pickle"):
        load(hostile)
    hostile.rename(tmp_path / "renamed.safetensors")
    with pytest.raises(DamagedCheckpoint):
        load(tmp_path / "renamed.safetensors")


class _Hostile:
    def __reduce__(self):
        return (RuntimeError, ("code was run",))
