"""The projected discriminator: shapes, what is trained, seeds, state dict, augmentation."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.models import DiffAugment, Discriminator, RandomFeatures, TeacherEncoder, build
from ctm_fast.models.discriminator import DRAWS, discriminator
from ctm_fast.models.feature_nets import Parts
from ctm_fast.rng import stream

MAPS = ((3, 8), (5, 4))  # of a made-up teacher
TEACHER = TeacherEncoder(width=4)
RANDOM = RandomFeatures(seed=1, allow_random=True, resolution=16, width=4)


def images(batch=4, channels=3, size=8, seed=0) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=stream(seed)) * 2 - 1


def uniforms(batch=4, backbones=2, seed=1) -> torch.Tensor:
    return torch.rand(batch, backbones, DRAWS, generator=stream(seed))


def features(x: torch.Tensor) -> list[torch.Tensor]:
    """Maps as in MAPS, smooth in the images."""
    halved = nn.functional.avg_pool2d(x, 2)
    return [x.sin(), torch.cat([halved, (halved * 2).cos()[:, :2]], 1)]


def made(backbones=(TEACHER, RANDOM), seed=0, **options) -> Discriminator:
    return discriminator(backbones, channels_of_teacher=MAPS, seed=seed, **options)


def test_sixteen_logits_per_map_at_224_pixels() -> None:
    maps = ((24, 56), (40, 28), (112, 14), (320, 7))
    judge = discriminator([TeacherEncoder()], channels_of_teacher=maps, seed=0)
    given = [torch.randn(2, c, s, s, generator=stream(c)) for c, s in maps]
    assert judge(torch.zeros(2, 3, 32, 32), features=lambda x: given).shape == (2, 64)


@pytest.mark.parametrize("name, logits", [("digits", 25 + 1 + 1), ("photo-patches", 75)])
def test_on_the_encoder_of_a_teacher(name, logits) -> None:
    teacher = Denoiser(build(name)).eval().requires_grad_(False)
    judge = discriminator([TEACHER], channels_of_teacher=TEACHER.maps(teacher), seed=0)
    x = images(2, teacher.img_channels, teacher.img_resolution).requires_grad_()
    found = judge(x, uniforms(2, 1), TEACHER.features(teacher))
    assert found.shape == (2, logits) and found.dtype == torch.float32
    found.mean().backward()
    assert x.grad.isfinite().all() and (x.grad != 0).any()


@dataclass(frozen=True)
class WithNorm:
    """A backbone of the caller's, with trainable weights and batch norm."""

    width: int = 4

    def parts(self, teacher_maps, seed) -> Parts:
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5))

            def forward(self, x):
                return [self.layers(x)]

        torch.manual_seed(0)
        return Parts(Net(), None, ((5, 8),))


def test_only_heads_are_trained_and_backbones_stay_in_eval_mode() -> None:
    judge = made((TEACHER, WithNorm()))
    heads = {p for branch in judge.branches for p in branch.heads.parameters()}
    assert set(judge.parameters()) == heads and all(p.requires_grad for p in heads)
    network = judge._networks[1]
    judge.eval().train().requires_grad_(True)
    assert not any(m.training for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    kept = {n: b.clone() for n, b in network.state_dict().items()}
    projectors = {n: b.clone() for n, b in judge.state_dict().items() if "projector" in n}
    x = images().requires_grad_()
    judge(x, uniforms(), features).square().mean().backward()
    assert (x.grad != 0).any()
    assert all(p.grad is not None for p in heads)
    assert all(torch.equal(b, kept[n]) for n, b in network.state_dict().items())
    state = judge.state_dict()
    assert len(projectors) == 12 and all(torch.equal(b, state[n]) for n, b in projectors.items())
    assert not any("layers" in n for n in state)


def test_buffers_of_heads_move_in_train_mode_only() -> None:
    judge, x = made(), images()
    for train in (False, True):
        before = copy.deepcopy(judge.state_dict())
        judge.train(train)(x, None, features)
        moved = {n for n, b in judge.state_dict().items() if not torch.equal(b, before[n])}
        assert bool(moved) == train
    assert all(".heads." in n for n in moved)
    assert any("running_mean" in n for n in moved) and any("_u" in n for n in moved)


def test_two_passes_before_one_backward() -> None:
    judge = made()
    real, fake = judge(images(), None, features), judge(images(seed=5), None, features)
    ((1 - real).relu().mean() + (1 + fake).relu().mean()).backward()
    assert all(p.grad.isfinite().all() for p in judge.parameters())


def test_seeds_and_the_global_random_state() -> None:
    torch.manual_seed(1)
    one, state = made(seed=3).eval(), torch.get_rng_state()
    torch.manual_seed(2)
    same, other = made(seed=3).eval(), made(seed=4).eval()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state()), "global random numbers were drawn"
    given = (images(), uniforms(), features)
    assert torch.equal(one(*given), same(*given))
    assert not torch.equal(one(*given), other(*given))
    for name, values in one.state_dict().items():
        assert torch.equal(values, same.state_dict()[name])
        if "projector" in name or name.endswith("original"):
            assert not torch.equal(values, other.state_dict()[name])
    first, second = made((RANDOM, RANDOM)).branches
    name = "projector.channel_mixing.0.weight"
    assert not torch.equal(first.state_dict()[name], second.state_dict()[name])


def test_state_dict_round_trip() -> None:
    judge = made(seed=0)
    for seed in range(3):
        judge(images(seed=seed), None, features)
    fresh = made(seed=9)
    fresh.load_state_dict(judge.state_dict())
    given = (images(seed=7), uniforms(), features)
    assert torch.equal(fresh.eval()(*given), judge.eval()(*given))
    assert torch.equal(copy.deepcopy(judge)(*given), judge(*given))
    # A training step continues the same way.
    assert torch.equal(fresh.train()(*given), judge.train()(*given))


def test_each_backbone_has_its_own_augmentation() -> None:
    judge, x = made((RANDOM, RandomFeatures(2, True, 16, 4))).eval(), images()
    u, changed = uniforms(), uniforms()
    changed[:, 1] = uniforms(seed=8)[:, 1]
    half = judge(x, u).shape[1] // 2
    assert torch.equal(judge(x, u)[:, :half], judge(x, changed)[:, :half])
    assert not torch.equal(judge(x, u)[:, half:], judge(x, changed)[:, half:])
    assert not torch.equal(judge(x, u), judge(x))
    still = made((RANDOM, RANDOM), augment=DiffAugment(0, 0, 0, 0, 0)).eval()
    assert torch.equal(still(x, u), still(x))


def test_a_split_batch_gives_the_same_logits() -> None:
    judge, x, u = made().eval(), images(5), uniforms(5)
    parts = torch.cat([judge(x[i:j], u[i:j], features) for i, j in ((0, 1), (1, 5))])
    torch.testing.assert_close(parts, judge(x, u, features), rtol=1e-5, atol=1e-6)


def test_float64_and_its_gradient() -> None:
    judge = made(seed=2).eval()
    x, u = images(2), uniforms(2)
    single = judge(x, u, features)
    judge.double()
    exact = judge(x.double(), u, features)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-5)
    few = images(1, 3, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: judge(x, u[:1], features).sum(1), few)


def test_half_precision_features_give_float32_logits() -> None:
    def half(x: torch.Tensor) -> list[torch.Tensor]:
        return [m.bfloat16() for m in features(x)]

    assert made((TEACHER,)).eval()(images(), None, half).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert made().eval()(images(), uniforms(), features).dtype == torch.float32


def test_bad_input() -> None:
    judge, x = made(), images()
    with pytest.raises(ValueError, match="at least one backbone"):
        discriminator([], seed=0)
    with pytest.raises(ValueError, match="only one backbone can be TeacherEncoder"):
        made((TEACHER, TEACHER))
    with pytest.raises(ValueError, match="needs channels_of_teacher"):
        discriminator([TEACHER], seed=0)
    with pytest.raises(ValueError, match=r"uniforms must be \(4, 2, 7\), got \(4, 1, 7\)"):
        judge(x, uniforms(backbones=1), features)
    with pytest.raises(ValueError, match="images must be"):
        judge(x[0], None, features)
    with pytest.raises(ValueError, match="needs features="):
        judge(x)
    with pytest.raises(ValueError, match=r"need feature maps of \[3, 5\] channels"):
        judge(x, None, lambda x: features(x)[:1])
    with pytest.raises(ValueError, match="smaller than this discriminator was made for"):
        judge(x, None, lambda x: [m[..., ::2, ::2] for m in features(x)])
