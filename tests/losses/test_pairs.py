"""Several pairs per trajectory: the same distribution and expected loss, fewer teacher calls."""

from dataclasses import replace

import pytest
import torch

from ctm_fast.losses import CTM, L2, Batch, Models, PseudoHuber, evaluate
from ctm_fast.losses.pairs import draw_pairs, flattened, per_image
from ctm_fast.rng import stream
from ctm_fast.timesteps import TrajectoryLevels
from tests.analytic import Gaussian, GaussianNet

from .tools import drawn


@pytest.mark.parametrize("destination", ["uniform", "smallest"])
def test_every_pair_has_the_distribution_of_a_single_one(destination: str) -> None:
    N, M, count = 6, 4, 60_000
    levels = TrajectoryLevels(max_steps=M, power=1.0, destination=destination)
    steps, t, u, s = draw_pairs(levels, count, 3, N, stream(0))
    assert steps.shape == u.shape == s.shape == (count, 3)
    assert torch.equal(u, t[:, None] + steps)
    expected = torch.zeros(M + 1, N, N, dtype=torch.float64)
    for n, p in enumerate(levels.count_probabilities(N).tolist(), start=1):
        expected[n] = p * levels.joint_probabilities(N, n)
    for pair in range(3):
        cells = (steps[:, pair] * N + t) * N + s[:, pair]
        found = torch.bincount(cells, minlength=expected.numel()).double().reshape(expected.shape)
        assert (found[expected == 0] == 0).all()
        wanted = count * expected[expected > 0]
        squares = ((found[expected > 0] - wanted) ** 2 / wanted).sum().item()
        cells = len(wanted)
        assert squares < cells + 5 * (2 * cells) ** 0.5  # chi-square, five standard deviations


def models() -> Models:
    wrong = GaussianNet(Gaussian(0.1, 0.8), destination=True).double().denoiser()
    target = GaussianNet(Gaussian(0.0, 0.6), destination=True).double().denoiser()
    teacher = GaussianNet(Gaussian(0.1, 0.5), destination=False).double().denoiser()
    return Models(wrong, target.requires_grad_(False), teacher.requires_grad_(False))


def batch_of(objective: CTM, size: int, step: int = 0) -> Batch:
    images = 0.1 + 0.5 * torch.randn(size, 1, 4, 4, generator=stream(3, step), dtype=torch.float64)
    batch = drawn(objective, images, step=step)
    for name, value in batch.draw.items():
        if torch.is_tensor(value) and value.is_floating_point():
            batch.draw[name] = value.double()
    return batch


def test_expected_loss_is_unchanged_and_the_teacher_is_called_for_fewer_images() -> None:
    means, errors, rows = [], [], []
    for pairs in (1, 3):
        levels = TrajectoryLevels(per_sample=True)
        objective = CTM(num_scales=8, distance=L2(), levels=levels, pairs=pairs)
        given, losses = models(), []
        for step in range(12):
            batch = batch_of(objective, 500, step)
            losses.append(evaluate(objective, batch, given)["ctm"].detach())
        loss = torch.cat(losses)
        means.append(loss.mean())
        errors.append(loss.std() / len(loss) ** 0.5)
        rows.append(given.teacher.net.rows)
    assert abs(means[0] - means[1]) < 4 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    # More pairs average: an image's loss spreads less.
    assert errors[1] < 0.9 * errors[0]
    # Three pairs cost a good deal less than three solves.
    assert rows[1] < 0.6 * 3 * rows[0]


@pytest.mark.parametrize("options", [{}, {"target_inner": "none", "target_matching": True}])
def test_each_pair_is_compared_as_if_it_were_alone(options: dict) -> None:
    objective = CTM(num_scales=8, distance=PseudoHuber(), pairs=3, **options)
    single = CTM(num_scales=8, distance=PseudoHuber(), **options)
    given = models()
    batch = batch_of(objective, 10)
    found = evaluate(objective, batch, given)["ctm"]
    parts = [objective.loss("ctm", batch.slice(a, a + 5), given) for a in (0, 5)]
    torch.testing.assert_close(torch.cat(parts), found)
    joint = objective.losses(batch, given)
    torch.testing.assert_close(joint["ctm"], found)
    torch.testing.assert_close(joint["dsm"], objective.loss("dsm", batch, given))
    expected = []
    for pair in range(3):
        draw = {k: batch.draw[k] for k in ("t_index", "noise")}
        draw |= {k: batch.draw[k][:, pair] for k in ("num_steps", "u_index", "s_index")}
        alone = Batch(batch.images, None, draw)
        single.prepare(alone, given)
        expected.append(single.loss("ctm", alone, given))
    torch.testing.assert_close(found, torch.stack(expected).mean(0))


def test_rows() -> None:
    draw = {"t_index": torch.arange(2), "s_index": torch.arange(6).reshape(2, 3), "noise": None}
    batch = Batch(torch.zeros(2, 1, 1, 1), torch.tensor([5, 7]), draw, dict(draw))
    flat = flattened(batch, 3)
    assert flat.draw["t_index"].tolist() == [0, 0, 0, 1, 1, 1]
    assert flat.draw["s_index"].tolist() == flat.host["s_index"].tolist() == list(range(6))
    assert flat.labels.tolist() == [5, 5, 5, 7, 7, 7]
    assert torch.equal(per_image(flat.draw["s_index"], 3), draw["s_index"])
    assert flattened(batch, 1) is batch
    assert per_image(flat.labels, 1) is flat.labels


@pytest.mark.parametrize("options", [{"pairs": 0}, {"pairs": 2, "self_teacher": "jump"}])
def test_bad_numbers_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=f"got pairs={options['pairs']}"):
        CTM(**options)


def test_estimates_that_have_arrived_come_last() -> None:
    objective = CTM(num_scales=8)
    ends = torch.tensor([7, 3, 7, 5])
    batch = Batch(torch.zeros(4, 1, 4, 4), None, {"s_index": ends, "u_index": ends.flip(0)})
    assert objective.order(batch).tolist() == [1, 3, 0, 2]
    matching = replace(objective, target_matching=True)
    assert matching.order(batch).tolist() == [0, 2, 1, 3]
    assert not objective.settled("ctm", batch)
    batch.reorder(objective.order(batch))
    assert objective.settled("ctm", batch.slice(2, 4))
    assert not objective.settled("dsm", batch.slice(2, 4))
    assert objective.order(batch.to("meta")) is not None
    pairs = replace(objective, pairs=2)
    batch = Batch(batch.images, None, {"s_index": torch.tensor([[7, 7], [6, 7], [5, 6], [7, 7]])})
    assert pairs.order(batch).tolist() == [2, 1, 0, 3]
    assert not pairs.settled("ctm", batch.slice(0, 2))
    assert pairs.settled("ctm", batch.slice(3, 4))
    assert objective.order(Batch(batch.images.to("meta"))) is None
