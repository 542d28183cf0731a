"""timm's networks against their layers run one by one, in a process of their own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctm_fast.models.timm_nets import TIMM, TimmNet, _load, three_channels

ROOT = Path(__file__).resolve().parents[2]
needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="needs timm (extra gan)"
)


def passes(*checks: str) -> None:
    command = [sys.executable, "-m", "tests.models.timm_worker", *checks]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:-1] == [f"{check} passed" for check in checks]


@needs_timm
def test_networks_files_and_refusals() -> None:
    passes("transformer", "convolutional", "discriminator", "refusals")


@needs_timm
@pytest.mark.slow
def test_the_published_transformer() -> None:
    passes("base")


def test_without_timm_the_extra_is_named(monkeypatch) -> None:
    # None in the table of modules makes an import fail, as if nothing were installed.
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'torchvision.*pip install "ctm_fast\[gan\]"'):
        TimmNet("tf_efficientnet_lite0", {}, "a file")


def test_batch_counts_may_be_absent_and_nothing_else() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    state = {name: value + 1 for name, value in net.state_dict().items()}
    del state["0.num_batches_tracked"]
    _load(net, state, "no")
    assert net[0].running_mean.tolist() == [1.0, 1.0]
    del state["0.running_var"]
    with pytest.raises(ValueError, match=r"no: it lacks 0.running_var$"):
        _load(net, state, "no")


def test_three_channels() -> None:
    grey = torch.randn(2, 1, 4, 4)
    assert torch.equal(three_channels(grey), torch.cat([grey] * 3, 1))
    colour = torch.randn(2, 3, 4, 4)
    assert three_channels(colour) is colour
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        three_channels(torch.zeros(1, 4, 2, 2))


def test_facts() -> None:
    for model, facts in TIMM.items():
        assert facts.files[0].startswith(f"{model}-") and facts.files[0].endswith(".pth")
        assert facts.url in facts.where(model) and f"huggingface.co/timm/{model}." in facts.where(
            model
        )
