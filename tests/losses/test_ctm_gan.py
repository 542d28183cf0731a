"""CTM with its adversarial term: phases, fakes, who gets a gradient, balance, refusals."""

import dataclasses

import pytest
import torch

from ctm_fast.losses import CTM, CTMGAN, GAN, Balance, Batch, Models, PseudoHuber
from ctm_fast.losses.gan import discriminator_loss, generator_loss
from ctm_fast.models.discriminator import Discriminator
from ctm_fast.models.feature_nets import RandomFeatures, TeacherEncoder
from ctm_fast.rng import stream
from ctm_fast.timesteps import TrajectoryLevels
from tests.trainer import tiny
from tests.trainer.adversary import Heads

from .tools import label_batch

SMALL = {"num_scales": 6, "levels": TrajectoryLevels(max_steps=2), "distance": PseudoHuber()}
RANDOM = GAN(backbones=(RandomFeatures(allow_random=True),))


def objective(**options) -> CTMGAN:
    return CTMGAN(gan=dataclasses.replace(RANDOM, **options), **SMALL)


def networks(norm: bool = True) -> Models:
    student, target = tiny.denoiser(1), tiny.denoiser(2).requires_grad_(False)
    teacher = tiny.denoiser(3, destination=False).requires_grad_(False)
    return Models(student, target, teacher, Heads(norm))


def drawn(of: CTM, step: int | None = None, size: int = 8) -> Batch:
    shape = (1, tiny.SIZE, tiny.SIZE)
    images = torch.rand(size, *shape, generator=stream(4)) * 2 - 1
    draw = of.draw(size, shape, stream(0, 0))
    return Batch(images, label_batch(size) % 3, draw if step is None else {**draw, "step": step})


def prepared(of: CTM, models: Models, step: int | None = None) -> Batch:
    batch = drawn(of, step)
    of.prepare(batch, models)
    return batch


def gradients(model: torch.nn.Module) -> list[torch.Tensor | None]:
    found = [p.grad for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    return found


def test_draws_are_those_of_ctm_and_of_the_augmentation() -> None:
    of, shape = objective(), (1, 4, 4)
    plain, own = CTM(**SMALL).draw(8, shape, stream(0)), of.draw(8, shape, stream(0))
    assert set(own) - set(plain) == {"augment_fake", "augment_real"}
    assert all(torch.equal(own[k], v) for k, v in plain.items() if torch.is_tensor(v))
    assert own["augment_fake"].shape == own["augment_real"].shape == (8, 1, 7)
    assert not torch.equal(own["augment_fake"], own["augment_real"])
    shared = objective(different_augment=False).draw(8, shape, stream(0))
    assert torch.equal(shared["augment_fake"], own["augment_fake"])
    assert "augment_real" not in shared
    assert set(objective(augment=False).draw(8, shape, stream(0))) == set(plain)


@pytest.mark.parametrize("different", [True, False])
def test_real_and_fake_have_separate_numbers_or_the_same(different: bool) -> None:
    of, models, seen = objective(different_augment=different), networks(), []
    models.companion.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    batch = prepared(of, models, step=1)
    of.loss("discriminator", batch, models)
    real, fake = seen
    assert torch.equal(fake, batch.draw["augment_fake"])
    assert torch.equal(real, fake) != different


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (0, {"ctm", "dsm"}),
        (1, {"ctm", "dsm"}),
        (2, {"ctm", "dsm", "gan"}),
        (3, {"discriminator"}),
        (None, {"ctm", "dsm", "gan", "discriminator"}),
    ],
)
def test_which_terms_a_step_has(step: int | None, names: set[str]) -> None:
    of = objective(start=2)
    batch = drawn(of, step)
    assert {term for term in of.terms if of.active(term, batch)} == names
    if step is not None:
        moves = "companion" if "discriminator" in names else "student"
        assert of.trains(step) == {moves}
    assert (of.order(batch) is None) == (step in (2, 3, None))
    sometimes = dataclasses.replace(of, denoising_frequency=0.5)
    batch.draw["dsm_on"] = 0.0
    assert not sometimes.active("dsm", batch)


def test_a_step_of_the_discriminator_solves_nothing() -> None:
    of, models, calls = objective(), networks(), []
    models.teacher.net.register_forward_pre_hook(lambda *_: calls.append(1))
    seen = []
    models.student.net.register_forward_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    batch = prepared(of, models, step=1)
    loss = of.loss("discriminator", batch, models)
    assert calls == []
    assert seen == [False], "one call of the student, without gradient"
    assert not any(name.startswith("target_") for name in batch.draw)
    loss.mean().backward()
    assert all(g is None for m in (models.student, models.target) for g in gradients(m))
    assert all(g is not None for g in gradients(models.companion))
    prepared(of, models, step=0)
    assert len(calls) > 0


@pytest.mark.parametrize("fake", ["estimate", "direct"])
def test_losses_are_those_of_the_fakes(fake: str) -> None:
    of, models = objective(fake=fake, weight=0.5), networks(norm=False)
    batch = prepared(of, models)
    draw, sigmas = batch.draw, of.grid(models.student)
    t, s = (sigmas[draw[f"{name}_index"]] for name in "ts")
    low, labels = sigmas[-1].expand_as(t), batch.labels
    x_t = batch.images + t.reshape(-1, 1, 1, 1) * draw["noise"]
    if fake == "direct":
        expected = models.student.jump(x_t, t, low, labels)
    else:
        expected = models.target.jump(models.student.jump(x_t, t, s, labels), s, low, labels)
    torch.testing.assert_close(draw["fakes"], expected.detach(), rtol=1e-5, atol=1e-5)
    of_fake = models.companion(expected, draw["augment_fake"])
    of_real = models.companion(batch.images, draw["augment_real"])
    found = {term: of.loss(term, batch, models) for term in ("gan", "discriminator")}
    torch.testing.assert_close(found["gan"], 0.5 * generator_loss(of_fake), rtol=1e-4, atol=1e-5)
    judged = discriminator_loss(of_real, of_fake)
    torch.testing.assert_close(found["discriminator"], judged, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [True, False])
def test_the_generators_gradient_reaches_the_student_alone(norm: bool) -> None:
    of, models = objective(), networks(norm)
    batch = prepared(of, models, step=2)
    before = tiny.weights(models.companion)
    of.loss("gan", batch, models).mean().backward()
    assert sum(float(g.abs().sum()) for g in gradients(models.student) if g is not None) > 0
    for other in (models.target, models.teacher, models.companion):
        assert all(g is None for g in gradients(other))
    after = tiny.weights(models.companion)
    assert all(torch.equal(before[name], after[name]) for name in before), "buffers, too"


def test_together_is_as_in_turn() -> None:
    for gan in ({}, {"fake": "direct"}):
        of, models = objective(**gan), networks()
        batch = prepared(of, models, step=2)
        together = of.losses(batch, models)
        assert set(together) == {"ctm", "dsm", "gan"}
        for term, loss in together.items():
            apart = of.loss(term, batch, models)
            torch.testing.assert_close(loss, apart, rtol=1e-4, atol=1e-5)
    early = objective(start=9)
    assert set(early.losses(prepared(early, models, step=2), models)) == {"ctm", "dsm"}


def test_several_pairs_per_image() -> None:
    of, models = dataclasses.replace(objective(), pairs=3), networks(norm=False)
    batch = prepared(of, models)
    assert batch.draw["fakes"].shape == (8, 3, 1, 4, 4)
    logits = models.companion(
        batch.draw["fakes"].flatten(0, 1), batch.draw["augment_fake"].repeat_interleave(3, 0)
    )
    expected = generator_loss(logits).reshape(8, 3).mean(1)
    torch.testing.assert_close(of.loss("gan", batch, models), expected, rtol=1e-4, atol=1e-5)
    parts = [of.loss("discriminator", batch.slice(i, i + 4), models) for i in (0, 4)]
    whole = of.loss("discriminator", batch, models)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)


def test_adaptive_weight_of_two_quadratic_losses() -> None:
    # ctm = c a |w|^2 / 2 and gan = b |w - 1|^2 / 2 have gradients c a w and b (w - 1).
    w = torch.tensor([3.0, 4.0], requires_grad=True)

    def weight(a: float, b: float, **options) -> float:
        of = dataclasses.replace(objective(**options), consistency_weight=2.0)
        factors = (2.0 * a * w.square().sum() / 2, of.gan.weight * b * (w - 1).square().sum() / 2)
        norms = [torch.autograd.grad(loss, w)[0].norm() for loss in factors]
        return of.balance["gan"](*norms).item()

    ratio = 5 / (13**0.5 + 1e-4)
    assert weight(1.0, 1.0) == pytest.approx(ratio, rel=1e-5)
    assert weight(1.0, 1.0, weight=0.25) == pytest.approx(ratio, rel=1e-5), "factors do not cancel"
    assert weight(3.0, 1.0) == pytest.approx(3 * ratio, rel=1e-5)
    assert weight(1e3, 1.0) == 10.0
    assert weight(1e-4, 1.0) == pytest.approx(0.01)
    assert weight(1.0, 0.0) == 10.0, "no gradient of the term: nothing is divided by zero"
    assert weight(0.0, 0.0) == pytest.approx(0.01)
    assert weight(1.0, 1.0, high=0.5) == 0.5
    assert objective().balance["dsm"] == CTM(**SMALL).balance["dsm"]
    assert objective().balance["gan"] == Balance(low=0.01, high=10.0, eps=1e-4)
    assert set(objective(adaptive=False).balance) == {"dsm"}
    with pytest.raises(ValueError, match="leaves nothing to balance"):
        CTMGAN(adaptive=False, consistency_weight=0.0)


def test_the_discriminator_looks_through_the_teachers_encoder() -> None:
    of = CTMGAN(gan=GAN(backbones=(TeacherEncoder(sigma=0.3, width=8),), seed=5), **SMALL)
    models = networks()
    made, again = (of.companion(models) for _ in range(2))
    assert isinstance(made, Discriminator)
    state, same = made.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    other = dataclasses.replace(of, gan=dataclasses.replace(of.gan, seed=6)).companion(models)
    assert any(not torch.equal(v, other.state_dict()[name]) for name, v in state.items())
    models, levels = dataclasses.replace(models, companion=made), []
    features = models.teacher.net.features
    models.teacher.net.features = lambda x, c, labels: (
        levels.append((c, labels)) or features(x, c, labels)
    )
    batch = prepared(of, models)
    levels.clear()
    of.loss("gan", batch, models).mean().backward()
    assert any(g.abs().sum() > 0 for g in gradients(models.student) if g is not None)
    assert all(p.grad is None for p in models.teacher.parameters())
    of.loss("discriminator", batch, models).mean().backward()
    assert len(levels) == 3
    for level, labels in levels:
        assert torch.equal(level, models.teacher.precond.c_noise(torch.full((8,), 0.3)))
        assert torch.equal(labels, batch.labels)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"self_teacher='jump' has no teacher.*Timm.*RandomF"):
        CTMGAN(self_teacher="jump")
    alone = CTMGAN(self_teacher="jump", gan=RANDOM)
    assert alone.needs == {"target"}
    assert isinstance(alone.companion(Models(tiny.denoiser())), Discriminator)
    with pytest.raises(ValueError, match="give a teacher, or"):
        CTMGAN().companion(Models(tiny.denoiser()))
    of, models = objective(), networks()
    batch = prepared(of, models)
    with pytest.raises(ValueError, match="unknown term 'wgan'"):
        of.loss("wgan", batch, models)
    with pytest.raises(ValueError, match="needs its discriminator"):
        of.loss("gan", batch, dataclasses.replace(models, companion=None))
