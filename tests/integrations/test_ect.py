"""Door of ECT against golden outputs and its contract."""

import copy
import pickle

import pytest
import torch

from ctm_fast.integrations.ect import ECTGenerator

from ..sampler.worlds import small_model
from .tiny_hosts import ECMPrecond, PatternNoise, TinyEDM, golden, pattern

LABELS = torch.eye(3)[[0, 2]]


def evaluate(generator_fn, net, seeds):
    """What ECT's metrics do: generator_fn(G, z, c), then 8 bits."""
    rows = [torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(s)) for s in seeds]
    labels = torch.eye(net.label_dim)[[seed % net.label_dim for seed in seeds]]
    images = generator_fn(net, torch.stack(rows), labels)
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def test_one_call_is_ects():
    images = ECTGenerator()(ECMPrecond(), pattern(2, 1, 4, 4), LABELS)
    assert images.dtype == torch.float64
    torch.testing.assert_close(images, golden("ect_one"), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("given", ["here", "there"])
def test_two_calls_are_ects(given):
    noise = PatternNoise()
    generator_fn = ECTGenerator(mid_t=(0.821,) if given == "here" else ())
    options = {} if given == "here" else dict(mid_t=[0.821])
    images = generator_fn(
        ECMPrecond(), pattern(2, 1, 4, 4), LABELS, randn_like=noise.randn_like, **options
    )
    torch.testing.assert_close(images, golden("ect_two"), rtol=1e-12, atol=1e-12)


def test_the_evaluation_with_one_line_changed():
    net = ECMPrecond()
    together = evaluate(ECTGenerator(), net, [3, 4, 5])
    apart = [evaluate(ECTGenerator(), net, seeds) for seeds in ([3, 4], [5])]
    assert torch.equal(together, torch.cat(apart)) and together.float().std() > 1


def test_training_mode_would_have_another_boundary():
    net, latents = ECMPrecond().train(), pattern(2, 1, 4, 4)
    net.inner.eval()
    images = ECTGenerator()(net, latents, LABELS)
    assert net.training and not net.inner.training
    torch.testing.assert_close(images, golden("ect_one"))
    assert (net(latents * 80, torch.tensor(80.0), LABELS) - images).abs().max() > 0.1


def test_global_noise_only_between_calls():
    before = torch.get_rng_state()
    ECTGenerator()(ECMPrecond(), pattern(1, 1, 4, 4), LABELS[:1])
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(3)
    one = ECTGenerator()(ECMPrecond(), pattern(1, 1, 4, 4), LABELS[:1], mid_t=[0.8])
    torch.manual_seed(3)
    two = ECTGenerator()(ECMPrecond(), pattern(1, 1, 4, 4), LABELS[:1], mid_t=[0.8])
    assert torch.equal(one, two)
    assert not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(before)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_a_trajectory_model_in_the_same_place(gamma):
    model, noise = small_model(), PatternNoise()
    latents = pattern(2, 2, 4, 4)
    images = ECTGenerator(gamma=gamma)(model, latents, mid_t=[2.0], randn_like=noise.randn_like)
    low = model.sigma_min
    land = (1 - gamma**2) ** 0.5 * (2.0 - low) + low
    with torch.no_grad():
        x = model.eval().jump(latents.double() * 80, 80.0, land)
        if gamma:
            unit = pattern(2, 2, 4, 4, step=1, dtype=torch.float64)
            x = x + (4 - land**2) ** 0.5 * unit
        x = model.jump(x, 2.0, low)
    torch.testing.assert_close(images, x, rtol=1e-9, atol=1e-9)


def test_what_means_nothing_is_an_error():
    latents = pattern(1, 1, 4, 4)
    with pytest.raises(ValueError, match="num_steps=2"):
        ECTGenerator()(ECMPrecond(), latents, LABELS[:1], num_steps=2)
    with pytest.raises(ValueError, match="strictly decreasing"):
        ECTGenerator()(ECMPrecond(), latents, LABELS[:1], mid_t=[0.8, 2.0])
    with pytest.raises(ValueError, match="say kind="):
        ECTGenerator()(TinyEDM(), latents)
    with pytest.raises(ValueError, match="does not jump"):
        ECTGenerator()(small_model("denoiser"), latents)
    with pytest.raises(ValueError, match="does not jump"):
        ECTGenerator(kind="denoiser")
    with pytest.raises(ValueError, match="gamma is 2"):
        ECTGenerator(gamma=2)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies(again):
    generator_fn = ECTGenerator(kind="consistency", mid_t=[0.8])
    assert again(generator_fn) == generator_fn and generator_fn.mid_t == (0.8,)
