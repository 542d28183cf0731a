"""LPIPS against its formula, weights from local files, dtypes."""

import importlib.util
import types
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from ctm_fast.losses import DISTANCES, LPIPS, Models
from ctm_fast.losses import lpips as module
from ctm_fast.rng import stream

from .tools import constant

A, B = torch.randn(2, 3, 1, 8, 8, generator=stream(0)).mul(0.5)
NONE = Models(constant(0.0, True))
WIDTHS = (4, 6, 6, 8, 8)  # of the stages; the published network has 64 to 512


def between(distance, a, b):
    return distance(a, distance.targets(b, None, NONE), None, NONE)


def state() -> dict[str, torch.Tensor]:
    """VGG16's names with few channels, and five heads."""
    generator, width, found = stream(3), 3, {}
    for k, stage in enumerate(module.STAGES):
        for index in stage:
            shape = (WIDTHS[k], width, 3, 3)
            scale = (2 / (9 * width)) ** 0.5
            found[f"features.{index}.weight"] = scale * torch.randn(shape, generator=generator)
            found[f"features.{index}.bias"] = 0.2 + 0.1 * torch.randn(
                WIDTHS[k], generator=generator
            )
            width = WIDTHS[k]
        found[f"lin{k}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return found


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.save(state(), tmp_path / "vgg.pt")
    return str(tmp_path / "vgg.pt")


def formula(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """LPIPS as its paper and code have it, in float64, layer by layer."""
    weights = {k: v.double() for k, v in state().items()}
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).reshape(1, 3, 1, 1)
    spread = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).reshape(1, 3, 1, 1)

    def features(x):
        x = functional.interpolate(x.double().expand(-1, 3, -1, -1), (224, 224), mode="bilinear")
        x, found = (x - shift) / spread, []
        for k, stage in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))):
            x = x if k == 0 else functional.avg_pool2d(x, kernel_size=2, stride=2)
            for i in stage:
                bias = weights[f"features.{i}.bias"]
                x = functional.relu(
                    functional.conv2d(x, weights[f"features.{i}.weight"], bias, 1, 1)
                )
            found.append(x / ((x**2).sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    total = 0
    for k, (one, other) in enumerate(zip(features(a), features(b), strict=True)):
        lin = functional.conv2d((one - other) ** 2, weights[f"lin{k}.model.1.weight"])
        total = total + lin.mean((2, 3))[:, 0]
    return total


def test_value_and_gradient_follow_the_formula(weights: str) -> None:
    distance = LPIPS(weights, dtype="float32")
    x, y = A.clone().requires_grad_(), A.clone().requires_grad_()
    value, expected = between(distance, x, B), formula(y, B)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)
    value.sum().backward(), expected.sum().backward()
    assert (x.grad - y.grad).norm() < 1e-3 * y.grad.norm()
    assert between(distance, A, A).abs().max() == 0


def test_bfloat16_is_close_and_compares_in_float32(weights: str) -> None:
    distance = LPIPS(weights, dtype="bfloat16")
    targets = distance.targets(B, None, NONE)
    assert {t.dtype for t in targets.values()} == {torch.bfloat16}
    assert all(len(t) == 3 for t in targets.values())
    first = targets["vgg0"]
    assert first.shape[1:] == (4, 224, 224)
    assert first.is_contiguous(memory_format=torch.channels_last)
    x, y = A.clone().requires_grad_(), A.clone().requires_grad_()
    value, exact = distance(x, targets, None, NONE), between(LPIPS(weights, dtype="float32"), y, B)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=0.02, atol=0)
    value.sum().backward(), exact.sum().backward()
    assert (x.grad - y.grad).norm() < 0.1 * y.grad.norm()
    assert between(distance, A, A).abs().max() == 0


def test_the_target_is_passed_through_once_and_never_kept_as_an_image(weights, monkeypatch) -> None:
    distance, seen = LPIPS(weights, dtype="float32"), []
    original = module._VGG.features
    monkeypatch.setattr(
        module._VGG, "features", lambda self, x: seen.append(len(x)) or original(self, x)
    )
    targets = distance.targets(B, None, NONE)
    for start in range(3):
        part = {name: value[start : start + 1] for name, value in targets.items()}
        distance(A[start : start + 1], part, None, NONE)
    assert seen == [3, 1, 1, 1]
    monkeypatch.setattr(module, "AT_ONCE", 2)
    pieces = distance.targets(B, None, NONE)
    assert seen[4:] == [2, 1]
    for name, value in targets.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-5, atol=1e-5)


def test_large_images_are_not_resized(weights: str) -> None:
    image = torch.zeros(1, 3, 256, 256)
    assert LPIPS(weights, dtype="float32").targets(image, None, NONE)["vgg0"].shape[2:] == (
        256,
        256,
    )


def test_heads_from_a_file_of_their_own(weights: str, tmp_path: Path) -> None:
    everything = state()
    heads = [everything.pop(f"lin{k}.model.1.weight") for k in range(5)]
    torch.save(everything, tmp_path / "backbone.pt")
    torch.save(heads, tmp_path / "heads.pt")
    apart = LPIPS(str(tmp_path / "backbone.pt"), str(tmp_path / "heads.pt"), "float32")
    expected = between(LPIPS(weights, dtype="float32"), A, B)
    assert torch.equal(between(apart, A, B), expected)
    torch.save({f"lin{k}.model.1.weight": head for k, head in enumerate(heads)}, apart.heads)
    again = LPIPS(apart.weights, str(tmp_path / "." / "heads.pt"), "float32")
    assert torch.equal(between(again, A, B), expected)


def test_heads_from_the_installed_package(weights: str, tmp_path: Path, monkeypatch) -> None:
    everything = state()
    heads = {f"lin{k}.model.1.weight": everything.pop(f"lin{k}.model.1.weight") for k in range(5)}
    torch.save(everything, tmp_path / "backbone.pt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    alone = LPIPS(str(tmp_path / "backbone.pt"), dtype="float32")
    with pytest.raises(ValueError, match=r"ctm_fast\[gan\]"):
        between(alone, A, B)
    folder = tmp_path / "lpips" / "weights" / "v0.1"
    folder.mkdir(parents=True)
    torch.save(heads, folder / "vgg.pth")
    spec = types.SimpleNamespace(origin=str(tmp_path / "lpips" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    torch.testing.assert_close(between(alone, A, B), between(LPIPS(weights, dtype="float32"), A, B))


@pytest.mark.skipif(importlib.util.find_spec("lpips") is None, reason="compares with the package")
def test_equals_the_lpips_package() -> None:
    import lpips

    network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    slices = [getattr(network.net, f"slice{i}") for i in range(1, 6)]
    found = {f"features.{n}": p for part in slices for n, p in part.state_dict().items()}
    for part in slices:
        for name, layer in part.named_children():
            if isinstance(layer, torch.nn.MaxPool2d):
                setattr(part, name, torch.nn.AvgPool2d(2, 2))
    heads = [getattr(network, f"lin{k}").model[1].weight for k in range(5)]
    ours = module._VGG(found, heads, torch.float32, torch.device("cpu"))
    a, b = (functional.interpolate(x.expand(-1, 3, -1, -1), (256, 256)) for x in (A, B))
    values = [
        module.normalised_distance(x, y, h, module.EPS)
        for x, y, h in zip(ours.features(a), ours.features(b), ours.heads)
    ]
    torch.testing.assert_close(sum(values), network(a, b).flatten(), rtol=1e-4, atol=1e-6)


def test_nothing_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is downloaded"):
        between(LPIPS(), A, B)
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"not a VGG16 state dict: it lacks features.0.bias"):
        between(LPIPS(str(tmp_path / "other.pt")), A, B)
    with pytest.raises(ValueError, match="unknown dtype 'float16'"):
        LPIPS(dtype="float16")
    assert DISTANCES["lpips"] is LPIPS
