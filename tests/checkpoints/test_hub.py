"""Folders and repositories: exact, strict, and no network where none is needed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import huggingface_hub.hub_mixin
import pytest
import torch

import ctm_fast
from ctm_fast import models
from ctm_fast.checkpoints import from_pretrained, hub_class, load, push_to_hub, save_pretrained
from ctm_fast.denoiser import Denoiser


def model(seed=1, **options):
    net = models.build("ctm-digits", model_channels=8, channel_mult=(1, 1), seed=seed)
    return Denoiser(net, **options).eval()


def same(one, other) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture
def folder(tmp_path):
    return save_pretrained(model(sigma_max=40.0), tmp_path / "deep" / "digits", step=5)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def cached(folder: Path, cache: Path, name="me/digits", commit="0" * 40) -> None:
    """Lays a folder out as a repository in huggingface_hub's cache."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    for file in folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())


def test_a_folder_is_a_model(folder, no_network):
    assert {file.name for file in folder.iterdir()} == {
        *("model.safetensors", "config.json", "README.md")
    }
    for loaded in (from_pretrained(folder), load(folder), from_pretrained(str(folder))):
        assert same(loaded, model())
        assert loaded.sigma_max == 40.0
    assert from_pretrained(folder, sigma_max=20.0, dtype=torch.bfloat16).sigma_max == 20.0
    assert json.loads((folder / "config.json").read_text())["provenance"] == {"step": 5}
    assert 'from_pretrained("digits")' in (folder / "README.md").read_text()
    assert ctm_fast.from_pretrained is from_pretrained


def test_a_folder_needs_no_huggingface_hub(folder):
    code = "import sys; sys.modules['huggingface_hub'] = None; import ctm_fast as cf; "
    code += "cf.save_pretrained(cf.from_pretrained(sys.argv[1]), sys.argv[1]); "
    code += "cf.from_pretrained('me/absent')"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=root, capture_output=True, text=True
    )
    assert "ImportError" in done.stderr and "pip install ctm_fast[hub]" in done.stderr


def test_config_that_disagrees_with_the_weights(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "kind": "denoiser"}))
    with pytest.raises(ValueError, match=r"disagree about \['kind'\]"):
        from_pretrained(folder)
    (folder / "config.json").unlink()
    assert same(from_pretrained(folder), model())


def test_strict(folder, tmp_path):
    ctm_fast.save(model(), tmp_path / "own.safetensors")
    torch.save(model().net.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="folder"):
        from_pretrained(folder)


def test_a_repository_from_the_cache(folder, tmp_path, no_network, monkeypatch):
    cached(folder, tmp_path / "cache")
    loaded = from_pretrained("me/digits", cache_dir=tmp_path / "cache", local_files_only=True)
    assert same(loaded, model())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert same(from_pretrained("me/digits", cache_dir=tmp_path / "cache"), model())
    with pytest.raises(FileNotFoundError, match="me/other is not on this disk or in the cache"):
        from_pretrained("me/other", cache_dir=tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match="me/digits"):
        from_pretrained("me/digits", cache_dir=tmp_path / "cache", revision="1" * 40)


def test_only_safe_files_are_asked_for(folder, monkeypatch):
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    from_pretrained("me/digits", revision="abc", token="secret")
    assert asked["name"] == "me/digits"
    assert (asked["revision"], asked["token"], asked["local_files_only"]) == (
        "abc",
        "secret",
        False,
    )
    assert all(name.endswith((".json", ".safetensors")) for name in asked["allow_patterns"])


@pytest.mark.parametrize(
    "name", ["absent", "./absent", "a/b/c", "me/model.safetensors", "/a/b", ""]
)
def test_names_that_are_neither(name, no_network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"neither|no repository name|without a model"):
        from_pretrained(name)


def test_options_of_repositories_are_refused_for_folders(folder):
    with pytest.raises(ValueError, match="revision is for repositories"):
        from_pretrained(folder, revision="main")


def test_push_writes_what_from_pretrained_reads(monkeypatch, tmp_path):
    pushed = {}

    class Api:
        def __init__(self, **options):
            pushed["token"] = options.get("token")

        def create_repo(self, repo_id, **options):
            pushed.update(options)
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, repo_id, **options):
            pushed.update(options, repo=repo_id)
            for file in Path(folder_path).iterdir():
                (tmp_path / file.name).write_bytes(file.read_bytes())
            return "address"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    options = {"private": True, "token": "t", "licence": "mit", "step": 9}
    assert push_to_hub(model(), "me/digits", **options) == "address"
    assert (pushed["repo"], pushed["private"], pushed["token"]) == ("me/digits", True, "t")
    assert same(load(tmp_path), model())
    card = (tmp_path / "README.md").read_text()
    assert 'from_pretrained("me/digits")' in card and 'license: "mit"' in card
    assert json.loads((tmp_path / "config.json").read_text())["provenance"] == {"step": 9}


def test_the_mixin_class_round_trips(tmp_path, no_network):
    cls = hub_class()
    assert issubclass(cls, huggingface_hub.PyTorchModelHubMixin)
    cls(model()).save_pretrained(tmp_path / "m")
    again = cls.from_pretrained(tmp_path / "m")
    assert isinstance(again, cls)
    x, labels = torch.zeros(1, 1, 8, 8), torch.tensor([3])
    assert torch.equal(again(x, 1.0, labels), model()(x, 1.0, labels))
    assert (tmp_path / "m" / "config.json").is_file()


def test_saving_to_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        save_pretrained(model(), tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]
