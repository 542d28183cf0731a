"""SCT: the reference sets by brute force, phases, and each piece switched off alone."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from ctm_fast.denoiser import Denoiser
from ctm_fast.gaps import SigmoidGap
from ctm_fast.losses import ECT, SCT, Batch, Models, evaluate
from ctm_fast.losses.dsm import noised
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.registry import fields_from_json, fields_to_json
from ctm_fast.rng import stream
from tests.analytic import ConstantNet
from tests.trainer import tiny

from .tools import drawn

IMAGES = torch.randn(24, 1, 2, 2, generator=stream(1)) * 0.5
LABELS = torch.arange(24) % 3


def models(number: float = 0.25) -> Models:
    return Models(Denoiser(ConstantNet(number), Preconditioning(EDM(0.5)), kind="consistency"))


def posterior(x_t: Tensor, t: float, references: Tensor) -> Tensor:
    """Mean of the references behind one x_t, by differences in float64."""
    apart = (references.double() - x_t.double()).flatten(1)
    weights = (-(apart**2).sum(1) / (2 * t**2)).softmax(0)
    return (weights.reshape(-1, 1, 1, 1) * references.double()).sum(0)


def check_points(objective: SCT, batch: Batch, sets: list[Tensor]) -> None:
    """x_r of every row against its reference set by brute force."""
    objective.prepare(batch, models())
    draw = batch.draw
    for i, references in enumerate(sets):
        t, r, x_t = draw["t"][i].item(), draw["r"][i].item(), draw["x_t"][i].double()
        mean = posterior(draw["x_t"][i], t, references)
        expected = x_t + (r - t) * (x_t - mean) / t
        torch.testing.assert_close(draw["x_r"][i].double(), expected, rtol=1e-4, atol=1e-4)


def test_minibatch_is_the_whole_batch() -> None:
    check_points(SCT(), drawn(SCT(), IMAGES), [IMAGES] * 24)


def test_minibatch_of_a_size_begins_with_the_own_image() -> None:
    objective = SCT(references=5)
    sets = [IMAGES[[(i + k) % 24 for k in range(5)]] for i in range(24)]
    check_points(objective, drawn(objective, IMAGES), sets)


def test_labelled_sets_hold_one_class() -> None:
    own_class = [IMAGES[LABELS[i] == LABELS] for i in range(24)]
    check_points(SCT(), drawn(SCT(), IMAGES, LABELS), own_class)
    whole = SCT(reference="data")
    whole.attach(IMAGES, LABELS)
    check_points(whole, drawn(whole, IMAGES, LABELS), own_class)


def test_data_is_the_exact_posterior_of_the_set() -> None:
    objective = SCT(reference="data")
    objective.attach(torch.cat([IMAGES, IMAGES[:3] + 1]).half())
    references = torch.cat([IMAGES, IMAGES[:3] + 1]).half()
    check_points(objective, drawn(objective, IMAGES), [references] * 24)


def test_pool_is_the_same_for_all_rows_and_new_in_every_step() -> None:
    objective = SCT(reference="pool", references=6)
    data = torch.randn(50, 1, 2, 2, generator=stream(2)) * 0.5
    objective.attach(data)
    batch = drawn(objective, IMAGES)
    pool = objective._pool.drawn(5, batch.draw["pool_seed"], None)
    check_points(objective, batch, [torch.cat([image[None], pool]) for image in IMAGES])
    assert drawn(objective, IMAGES, step=1).draw["pool_seed"] != batch.draw["pool_seed"]
    # By class, from the images of the class.
    objective.attach(data, torch.arange(50) % 3)
    batch = drawn(objective, IMAGES, LABELS)
    pools = [objective._pool.drawn(5, batch.draw["pool_seed"], c) for c in range(3)]
    sets = [torch.cat([IMAGES[i : i + 1], pools[LABELS[i]]]) for i in range(24)]
    check_points(objective, batch, sets)


def test_class_posterior_of_disjoint_classes() -> None:
    # Class 0 lies at -1, class 1 at +1: at a high level only the label tells them apart.
    labels = torch.arange(400) % 2
    images = (2.0 * labels - 1).reshape(-1, 1, 1, 1)
    images = images + 0.1 * torch.randn(400, 1, 1, 1, generator=stream(3))
    objective = SCT()
    t = torch.full((400,), 20.0, dtype=torch.float64)
    for given, miss in ((labels, False), (None, True)):
        batch = drawn(objective, images, given)
        batch.draw.update(t=t, r=t / 2, float64=t < 0)
        objective.prepare(batch, models())
        mean = objective.posterior(batch).mean.flatten()
        wrong = (mean - (2.0 * labels - 1)).abs().max()
        assert wrong < 0.05 if not miss else wrong > 0.8


@pytest.mark.parametrize("reference", ["none", "minibatch", "pool", "data"])
@pytest.mark.parametrize("labels", [None, LABELS])
def test_nothing_depends_on_how_the_batch_is_split(reference: str, labels: Tensor | None) -> None:
    objective = SCT(reference=reference, references=6 if reference == "pool" else None)
    if objective.wants_data:
        objective.attach(IMAGES, LABELS)
    batch, known = drawn(objective, IMAGES, labels), models()
    objective.prepare(batch, known)
    whole = objective.loss("consistency", batch, known)
    parts = [objective.loss("consistency", batch.slice(i, i + 5), known) for i in range(0, 24, 5)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=0)
    if reference == "minibatch":  # processes: see test_references
        return
    shares = [drawn(objective, IMAGES, labels).slice(i, i + 12) for i in (0, 12)]
    for share in shares:
        objective.prepare(share, known)
    split = torch.cat([share.draw["x_r"] for share in shares])
    torch.testing.assert_close(split, batch.draw["x_r"], rtol=1e-5, atol=1e-6)


def test_training_does_not_depend_on_the_microbatch() -> None:
    weights = []
    for microbatch in (None, 3):
        student = tiny.denoiser(destination=False)
        student.kind = "consistency"
        run = tiny.trainer(SCT(), student=student, steps=3, microbatch=microbatch)
        run.fit()
        weights.append(tiny.weights(run.student))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6)


def test_without_references_it_is_ect() -> None:
    objective, ect = SCT(reference="none", gap=SigmoidGap()), ECT()
    for progress in (0.0, 0.6):
        draws = [o.draw(24, (1, 2, 2), stream(0, 0), progress) for o in (objective, ect)]
        assert all(torch.equal(draws[0][k], v) for k, v in draws[1].items())
        losses = [
            evaluate(o, Batch(IMAGES, None, d), models(), progress)["consistency"]
            for o, d in zip((objective, ect), draws, strict=True)
        ]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("zero_target", ["posterior", "image"])
def test_target_at_zero(zero_target: str) -> None:
    objective = SCT(zero_target=zero_target)
    batch, known = drawn(objective, IMAGES), models()
    objective.prepare(batch, known)
    draw = batch.draw
    zero = draw["r"] == 0
    assert 5 < zero.sum() < 24
    target = objective.target(draw["x_r"], draw["r"].float(), batch, known, 0.0)
    wanted = IMAGES if zero_target == "image" else objective.posterior(batch).mean
    assert torch.equal(target[zero], wanted[zero])
    if zero_target == "posterior":
        assert not torch.equal(target[zero], IMAGES[zero])
    jumped = known.student(draw["x_r"], draw["r"].float())
    assert torch.equal(target[~zero], jumped[~zero])


def test_effective_sample_size_is_left_in_the_draw() -> None:
    objective = SCT()
    batch = drawn(objective, IMAGES)
    t = torch.logspace(-3, 2, 24, dtype=torch.float64)
    batch.draw.update(t=t, r=0.5 * t, float64=t < 0.02)
    objective.prepare(batch, models())
    size = batch.draw["ess"]
    assert size.shape == (24,)
    assert size[0] == pytest.approx(1.0)
    assert size[-1] == pytest.approx(24, rel=1e-3)
    assert (size[1:] >= size[:-1] * 0.5).all()
    alone = SCT(reference="none")
    batch = drawn(alone, IMAGES)
    alone.prepare(batch, models())
    assert torch.equal(batch.draw["ess"], torch.ones(24))


def test_low_rows_are_compared_in_float64() -> None:
    batch = drawn(SCT(), IMAGES)
    assert torch.equal(batch.draw["float64"], batch.draw["t"] < 0.02)
    # What decides where to compute stays readable on the CPU.
    assert torch.equal(batch.to("cpu").known("float64"), batch.draw["float64"])


PHASED = SCT(edges=(0.5, 4.0), gap=SigmoidGap())


def test_phases_by_hand() -> None:
    t = torch.tensor([0.01, 0.5, 0.5001, 4.0, 4.001, 300.0], dtype=torch.float64)
    edges = PHASED.lower_edge(t)
    assert edges.tolist() == [0.0, 0.0, 0.5, 0.5, 4.0, 4.0]
    t, r = PHASED.levels(5000, stream(4), 0.3)
    assert ((r >= PHASED.lower_edge(t)) & (r < t)).all()
    free = SCT(gap=SigmoidGap()).levels(5000, stream(4), 0.3)
    assert torch.equal(t, free[0])
    assert torch.equal(r, torch.maximum(free[1], PHASED.lower_edge(t)))
    assert (r == 0.5).any()
    assert (r == 4.0).any()


def test_phased_estimate_and_target_by_hand() -> None:
    images = torch.randn(200, 1, 2, 2, generator=stream(5), dtype=torch.float64)
    batch = drawn(PHASED, images)
    batch.draw["noise"] = batch.draw["noise"].double()
    known = Models(models().student.double())
    PHASED.prepare(batch, known)
    draw = batch.draw
    t, r, x_t, x_r = (draw[name] for name in ("t", "r", "x_t", "x_r"))
    e = PHASED.lower_edge(t)

    def at_edge(x: Tensor, level: Tensor) -> Tensor:
        ratio = (e / level).reshape(-1, 1, 1, 1)
        return ratio * x + (1 - ratio) * known.student(x, level)

    estimate = PHASED.estimate(x_t, t, batch, known, 0.0)
    torch.testing.assert_close(estimate, at_edge(x_t, t), rtol=1e-12, atol=1e-12)
    target = PHASED.target(x_r, r, batch, known, 0.0)
    arrived = r == e
    assert 0 < arrived.sum() < 200
    assert torch.equal(target[arrived], x_r[arrived])
    assert (arrived & (e > 0)).any()
    moving = ~arrived
    torch.testing.assert_close(target[moving], at_edge(x_r, r)[moving], rtol=1e-12, atol=1e-12)
    ect = dataclasses.replace(PHASED, zero_target="image")
    ect.prepare(batch, known)
    expected = noised(images, r, draw["noise"])
    assert torch.equal(batch.draw["x_r"][arrived], expected[arrived])


@pytest.mark.parametrize("edge", [0.5, 4.0])
def test_a_phase_is_the_identity_at_its_lower_edge(edge: float) -> None:
    images = 3 * torch.randn(24, 1, 2, 2, generator=stream(6), dtype=torch.float64)
    batch = drawn(PHASED, images)
    known = Models(models().student.double())
    t = torch.full((24,), edge * (1 + 1e-8), dtype=torch.float64)
    batch.draw["t"] = t
    found = PHASED.estimate(images, t, batch, known, 0.0)
    assert (found - images).abs().max() < 1e-6
    # And below the edge it is another map: that of the phase below, down to its own edge.
    batch.draw["t"] = t = torch.full((24,), edge, dtype=torch.float64)
    assert (PHASED.estimate(images, t, batch, known, 0.0) - images).abs().max() > 0.1


def test_options_survive_json_and_the_data_do_not() -> None:
    objective = SCT(reference="pool", references=9, edges=(0.5, 4.0), zero_target="image")
    objective.attach(IMAGES)
    again = fields_from_json(SCT, fields_to_json(objective), "sct")
    assert again == objective
    with pytest.raises(ValueError, match="needs the data set's images; give them by attach"):
        evaluate(again, drawn(again, IMAGES), models())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reference": "batch"}, "unknown reference 'batch'"),
        ({"zero_target": "x0"}, "unknown zero_target 'x0'"),
        ({"references": 0}, "references must be at least 1, got 0"),
        ({"reference": "pool"}, "needs the number of images"),
        ({"reference": "data", "references": 3}, "has a size of its own"),
        ({"edges": (0.0, 1.0)}, "edges must be positive and increasing"),
        ({"edges": (2.0, 1.0)}, "edges must be positive and increasing"),
        ({"edges": (1.0, math.inf)}, "edges must be positive and increasing"),
        ({"weighting": "nope"}, "unknown weighting"),
    ],
)
def test_bad_options_are_named(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SCT(**fields)


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="one whole number per image"):
        evaluate(SCT(), drawn(SCT(), IMAGES, torch.ones(24, 3)), models())
    objective = SCT(reference="data")
    objective.attach(IMAGES, LABELS)
    with pytest.raises(ValueError, match="no reference image of class 3"):
        evaluate(objective, drawn(objective, IMAGES, LABELS + 3), models())
