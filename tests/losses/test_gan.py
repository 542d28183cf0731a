"""The adversarial term: hinge values, calls that leave a module alone, phases, a toy game."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ctm_fast.losses import GAN, OBJECTIVES
from ctm_fast.losses.gan import discriminator_loss, generator_loss, unmoved
from ctm_fast.models.feature_nets import RandomFeatures, TeacherEncoder, Timm
from ctm_fast.registry import fields_from_json, fields_to_json
from ctm_fast.rng import stream


def test_hinge_values_by_hand() -> None:
    real = torch.tensor([[2.0, 0.5], [-1.0, 1.0]])
    fake = torch.tensor([[-3.0, 0.0], [0.5, -0.5]])
    # Real: (0 + 0.5)/2, (2 + 0)/2. Fake: (0 + 1)/2, (1.5 + 0.5)/2.
    assert discriminator_loss(real, fake).tolist() == [0.75, 2.0]
    assert generator_loss(fake).tolist() == [1.5, 0.0]
    maps = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert generator_loss(maps).tolist() == [-1.5, -5.5]


def judge() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(spectral_norm(nn.Linear(3, 8)), nn.BatchNorm1d(8), nn.Linear(8, 2))


def test_an_unmoved_module_gives_gradients_to_its_input_alone() -> None:
    module = judge().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(6, 3, generator=stream(1)).requires_grad_()
    logits = unmoved(module, x)
    logits.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in module.parameters())
    assert all(weight.requires_grad for weight in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    # The same numbers as a plain call, which moves the buffers.
    assert torch.equal(module(x.detach()), logits.detach())
    assert not torch.equal(module[1].running_mean, before["1.running_mean"])


@pytest.mark.parametrize(
    ("start", "period", "generates", "judges"),
    [
        (0, 2, "101010", "101010"),
        (0, 3, "100100", "100100"),
        (3, 2, "111010", "000010"),
        (4, 3, "111100", "000000"),
    ],
)
def test_phases(start: int, period: int, generates: str, judges: str) -> None:
    gan = GAN(start=start, period=period)
    assert "".join(str(int(gan.generates(step))) for step in range(6)) == generates
    assert "".join(str(int(gan.judges(step))) for step in range(6)) == judges


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbones": ()}, "backbones is empty"),
        ({"backbones": (TeacherEncoder(), TeacherEncoder(0.2))}, "one TeacherEncoder"),
        ({"start": -1}, "start must be at least 0, got -1"),
        ({"period": 1}, "period must be at least 2, got 1"),
        ({"fake": "none"}, r"unknown fake 'none'; choose from \['direct', 'estimate'\]"),
        ({"weight": 0.0}, "weight=0.0"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"low": 2.0, "high": 1.0}, "low=2.0, high=1.0"),
        ({"betas": (0.5, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
    ],
)
def test_bad_options_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GAN(**fields)


def test_json_round_trip() -> None:
    timm = Timm("tf_efficientnet_lite0", file="lite0.pth", sha256="0aa007d2")
    backbones = (TeacherEncoder(0.2), timm, RandomFeatures(allow_random=True))
    gan = GAN(backbones=backbones, start=5, betas=(0.0, 0.99))
    assert fields_from_json(GAN, fields_to_json(gan), "gan") == gan
    assert gan.encoder == TeacherEncoder(0.2)
    assert GAN(backbones=backbones[1:]).encoder is None
    objective = OBJECTIVES["ctm_gan"](gan=gan)
    assert OBJECTIVES.from_json(OBJECTIVES.to_json(objective)) == objective


def test_a_bias_learns_the_mean_of_the_data() -> None:
    # Real: N(1, 1). Fake: N(0, 1) + bias, at first N(0, 1). Losses alternate as in training.
    heads = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    generator = stream(7)
    with torch.no_grad():
        for weight in heads.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    bias = torch.zeros((), requires_grad=True)
    learner = torch.optim.RAdam([bias], lr=1e-2)
    critic = torch.optim.RAdam(heads.parameters(), lr=1e-2, betas=(0.5, 0.9))
    gan, path = GAN(), []
    for step in range(1600):
        fake = torch.randn(256, 1, generator=generator) + bias
        if gan.generates(step):
            loss, moved = generator_loss(unmoved(heads, fake)), learner
        else:
            real = 1 + torch.randn(256, 1, generator=generator)
            loss, moved = discriminator_loss(heads(real), heads(fake.detach())), critic
        moved.zero_grad()
        loss.mean().backward()
        moved.step()
        path.append(bias.item())
    assert torch.tensor(path[-400:]).mean() == pytest.approx(1.0, abs=0.1)
    assert max(abs(value - 1) for value in path[-400:]) < 0.3
