"""Checks of timm networks, for a process of their own: `python -m tests.models.timm_worker CHECK`.

timm imports torchvision, of which nothing here is used. Where it is absent, an empty stand-in
takes its place, which must not be seen by other tests.
"""

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import tempfile
import types
from pathlib import Path

import torch
from torch.nn import functional

from ctm_fast.models import Timm
from ctm_fast.models.discriminator import discriminator
from ctm_fast.models.timm_nets import TIMM
from ctm_fast.rng import stream

TINY, BASE, LITE = (
    "deit_tiny_distilled_patch16_224",
    "deit_base_distilled_patch16_224",
    "tf_efficientnet_lite0",
)


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Any module of torchvision, with any name in it."""

    class Names(type):
        def __getattr__(cls, name):
            return _named(name, str)

    class Module(types.ModuleType):
        def __getattr__(self, name):
            return _named(name, lambda name: StandIn.Names(name, (), {}))

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return StandIn.Module(spec.name)

    def exec_module(self, module):
        module.__path__ = []


def _named(name, make):
    if name.startswith("__"):
        raise AttributeError(name)
    return make(name)


def saved(model: str, folder: Path, wrap: bool) -> tuple[Timm, torch.nn.Module]:
    """Choice of a network with random weights in a file, and timm's own network with them."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model(model, pretrained=False).eval()
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    if norms:
        # Statistics of some images, as after training: with others the activations die out.
        for norm in norms:
            norm.momentum = 1.0
        net.train()(torch.randn(2, 3, 224, 224))
        net.eval()
    path = folder / f"{model}.pth"
    torch.save({"model": net.state_dict()} if wrap else net.state_dict(), path)
    return Timm(model, str(path), hashlib.sha256(path.read_bytes()).hexdigest()), net


def prepared(images: torch.Tensor, model: str) -> torch.Tensor:
    """What the network is to see, written out."""
    mean, std = TIMM[model].mean_std
    x = (images.expand(-1, 3, -1, -1) + 1) / 2
    x = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    return functional.interpolate(x, (224, 224), mode="bilinear", align_corners=False)


def check_transformer(folder: Path, model: str = TINY) -> None:
    choice, net = saved(model, folder, wrap=True)
    before = torch.get_rng_state()
    parts = choice.parts(None, (0,))
    assert torch.equal(before, torch.get_rng_state()), "building drew from the global stream"
    wide = net.embed_dim
    assert parts.maps == ((wide // 8, 56), (wide // 4, 28), (wide // 2, 14), (wide, 7))
    images = torch.randn(2, 1, 32, 32, generator=stream(0)).requires_grad_()
    found = parts.network(images)
    with torch.no_grad():
        x = net.norm_pre(net._pos_embed(net.patch_embed(prepared(images, model))))
        expected = []
        for i, block in enumerate(net.blocks):
            x = block(x)
            if i in (2, 5, 8, 11):
                expected.append(x[:, 2:].transpose(1, 2).reshape(2, wide, 14, 14))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    adapted = parts.adapter(found)
    assert [tuple(m.shape[1:]) for m in adapted] == [(c, s, s) for c, s in parts.maps]
    sum(m.square().mean() for m in adapted).backward()
    assert (images.grad != 0).any()
    assert not any(p.requires_grad for p in parts.network.parameters())
    assert not any(m.training for m in parts.network.modules())
    assert parts.network(torch.zeros(1, 3, 256, 256))[0].shape == (1, wide, 14, 14)


def check_convolutional(folder: Path) -> None:
    choice, net = saved(LITE, folder, wrap=False)
    parts = choice.parts(None, (0,))
    assert parts.adapter is None and parts.maps == ((24, 56), (40, 28), (112, 14), (320, 7))
    images = torch.randn(2, 3, 32, 32, generator=stream(0)).requires_grad_()
    found = parts.network(images)
    with torch.no_grad():
        x, expected = net.bn1(net.conv_stem(prepared(images, LITE))), []
        for levels in (net.blocks[0:2], net.blocks[2:3], net.blocks[3:5], net.blocks[5:]):
            x = levels(x)
            expected.append(x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert all(0.1 < m.std() < 10 for m in found)
    found[-1].square().mean().backward()
    assert (images.grad != 0).any()
    large = parts.network(torch.zeros(1, 3, 256, 256))
    assert [m.shape[-1] for m in large] == [64, 32, 16, 8]


def check_discriminator(folder: Path) -> None:
    choices = [saved(TINY, folder, wrap=True)[0], saved(LITE, folder, wrap=False)[0]]
    judge = discriminator(choices, seed=1).train()
    assert not any(m.training for net in judge._networks for m in net.modules())
    assert not any("net." in name for name in judge.state_dict())
    assert any("adapter" in name for name in judge.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=stream(0)).requires_grad_()
    uniforms = torch.rand(2, 2, 7, generator=stream(1))
    logits = judge(images, uniforms)
    assert logits.shape == (2, 128) and logits.isfinite().all()
    logits.mean().backward()
    assert (images.grad != 0).any()
    other = discriminator(choices, seed=2).eval()
    other.load_state_dict(judge.state_dict())
    with torch.no_grad():
        assert torch.equal(other(images), judge.eval()(images))


def check_refusals(folder: Path) -> None:
    choice, net = saved(TINY, folder, wrap=True)
    swapped = Timm(LITE, choice.file, choice.sha256)
    assert "does not hold the weights of timm's tf_efficientnet_lite0: it lacks" in refusal(swapped)
    small = Timm("deit_small_distilled_patch16_224", choice.file, choice.sha256)
    assert "has other shapes for" in refusal(small)
    path = folder / "more.pth"
    torch.save({**net.state_dict(), "extra": torch.zeros(1)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert "it also has extra" in refusal(Timm(TINY, str(path), digest))


def refusal(choice: Timm) -> str:
    try:
        choice.parts(None, (0,))
    except ValueError as error:
        return str(error)
    raise AssertionError("accepted")


def check_base(folder: Path) -> None:
    check_transformer(folder, BASE)


if __name__ == "__main__":
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, StandIn())
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as temporary:
            globals()[f"check_{name}"](Path(temporary))
        print(name, "passed")
