"""What a sampler runs: frozen copies that follow their model, and CUDA graphs of them."""

import copy
import gc
import logging
import weakref

import pytest
import torch
from torch import nn

from ctm_fast.denoiser import Denoiser
from ctm_fast.inference import Tabulated, freeze
from ctm_fast.kernels.optimizer_step import Rule, Weights, optimizer_step
from ctm_fast.sampler import Sampler, engine, image_seeds
from ctm_fast.sampler.engine import Engine, fingerprint, freezable, padded
from tests.inference.fake_cuda import FakeCuda

from .worlds import World, small_model, unet_model

CASES = [
    ("trajectory", dict(steps=2)),
    ("trajectory", dict(steps=3, gamma=0.6)),
    ("trajectory", dict(method="heun", steps=4)),
    ("trajectory", dict(method="churn", steps=4)),
    ("trajectory", dict(method="jumps", sigmas=(80, 2, 0.002), landings=(1, 0.002))),
    ("consistency", dict(steps=3)),
    ("consistency", dict()),
    ("denoiser", dict(method="euler", steps=4)),
]
each_case = pytest.mark.parametrize("kind, options", CASES)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    # Networks look at labels on a CPU only, and this one passes for a GPU.
    monkeypatch.setattr("ctm_fast.models.arguments._check_labels", lambda *args: None)
    return FakeCuda(monkeypatch)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def engine_of(sampler):
    return sampler.__dict__["_engine"]


@each_case
@pytest.mark.parametrize("label_dim", [0, 3])
def test_a_frozen_copy_makes_the_same_images(kind, options, label_dim):
    model = unet_model(kind, label_dim).train()
    state = copy.deepcopy(model.state_dict())
    found = Sampler(model, clip=False, **options)(5, seed=1)
    close(found, Sampler(model, clip=False, freeze=False, **options)(5, seed=1))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_the_copy_is_made_once_and_again_when_a_weight_changed():
    model = unet_model()
    sampler = Sampler(model, clip=False)
    first = sampler(2)
    frozen = engine_of(sampler).frozen(model)
    assert isinstance(frozen, Tabulated) and engine_of(sampler).frozen(model) is frozen
    changes = [
        lambda: model.net.last_layer.weight.mul_(1.5),
        lambda: nn.init.normal_(model.net.last_layer.bias),
        lambda: setattr(model.net.last_layer, "bias", nn.Parameter(torch.ones(2))),
        lambda: model.load_state_dict(unet_model(seed=3).state_dict()),
        lambda: torch._foreach_lerp_(
            list(model.parameters()), list(unet_model(seed=4).parameters()), 0.3
        ),
        lambda: setattr(model, "net", unet_model(seed=5).net),
        lambda: model.double(),
    ]
    for change in changes:
        with torch.no_grad():
            change()
        images = sampler(2)
        assert not torch.equal(images, first), "stale weights"
        close(images, Sampler(model, freeze=False, clip=False)(2))
        first = images


def test_refresh_is_for_what_nobody_can_see():
    model = unet_model()
    sampler = Sampler(model, clip=False)
    before = sampler(2)
    model.net.last_layer.weight.data.mul_(2)
    assert torch.equal(sampler(2), before)
    sampler.refresh()
    close(sampler(2), Sampler(model, freeze=False, clip=False)(2))


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
def test_the_copy_follows_a_trained_average(backend):
    student, average = unet_model(), unet_model(seed=1)
    params, averages = list(student.parameters()), list(average.parameters())
    moments = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    weights = Weights(params, *moments, torch.zeros(len(params)), [averages])
    sampler = Sampler(average, clip=False)
    before = sampler(2)
    grads = [torch.randn_like(p) for p in params]
    optimizer_step(weights, grads, Rule(), 1e-2, [0.5], backend=backend)
    assert not torch.equal(sampler(2), before), "stale weights"
    close(sampler(2), Sampler(average, freeze=False, clip=False)(2))


def test_what_changes_a_fingerprint():
    model = unet_model()
    before = fingerprint(model)
    assert fingerprint(model) == before
    model(torch.zeros(1, 2, 4, 4), 1.0)
    model.eval().train()
    assert fingerprint(model) == before
    model.dtype = torch.bfloat16
    assert fingerprint(model) != before
    with torch.inference_mode():
        born = unet_model()
    assert fingerprint(born) != fingerprint(born), "nobody counts what is written there"


def test_only_what_stays_the_same_is_frozen():
    class Guided(Denoiser):
        pass

    model = unet_model()
    assert freezable(model) and freezable(freeze(model, None))
    assert not freezable(Guided(model.net)) and not freezable(small_model())
    assert not freezable(World())


def test_a_frozen_model_is_not_frozen_again(fake):
    model = freeze(unet_model(), torch.float32)
    for dtype in (None, torch.float32):
        frozen = Engine(dtype).frozen(model)
        assert frozen.net is model.net and frozen._rows is not model._rows
    assert Engine(torch.bfloat16).frozen(model).net is not model.net
    sampler = Sampler(model, clip=False)
    close(sampler(3, seed=2), Sampler(unet_model(), clip=False)(3, seed=2))
    with torch.no_grad():
        next(model.net.parameters()).mul_(2)
    close(sampler(3, seed=2), Sampler(model, clip=False, freeze=False)(3, seed=2))
    assert fake.captured[0].tape is None


def test_dtype_is_that_of_the_frozen_weights():
    model = unet_model()
    for sampler in (
        Sampler(model, dtype=torch.bfloat16),
        Sampler(Denoiser(model.net, dtype=torch.bfloat16)),
    ):
        frozen = engine_of(sampler).frozen(sampler.model)
        assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_copy_that_differs_says_how_to_go_on(monkeypatch):
    def refuse(model, dtype):
        raise ValueError("differs by 0.3")

    monkeypatch.setattr(engine, "freeze", refuse)
    with pytest.raises(ValueError, match=r"differs by 0\.3; freeze=False"):
        Sampler(unet_model())(1)


def test_models_elsewhere_are_run_themselves():
    model = unet_model(label_dim=3).to("meta")
    images = Sampler(model, steps=2)(3)
    assert images.is_meta and images.shape == (3, 2, 4, 4)


def test_numbers_reach_a_denoiser_and_vectors_everything_else(monkeypatch):
    seen = []

    def jump(self, x, sigma, sigma_to, labels=None):
        seen.append((sigma, sigma_to))
        return x

    monkeypatch.setattr(Tabulated, "jump", jump)
    monkeypatch.setattr(World, "jump", jump)
    Sampler(unet_model(), steps=2)(3)
    assert all(type(level) is float for pair in seen for level in pair) and len(seen) == 2
    seen.clear()
    Sampler(World(), steps=2)(3)
    assert all(level.shape == (3,) for pair in seen for level in pair) and len(seen) == 2


def test_padding_repeats_the_last_row():
    rows = torch.arange(6).reshape(3, 2)
    assert padded(rows, 5).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert padded(rows, 3) is rows and padded(None, 3) is None


@each_case
@pytest.mark.parametrize("label_dim", [0, 3])
def test_graphs_split_and_pad_without_changing_an_image(kind, options, label_dim, fake):
    model = unet_model(kind, label_dim)
    expected = Sampler(model, clip=False, freeze=False, **options)(11, seed=3)
    sampler = Sampler(model, clip=False, graphs=True, buckets=(1, 2, 4), **options)
    for _ in range(2):
        close(sampler(11, seed=3), expected)
    assert not sampler(11, seed=3).isnan().any()
    # Batches of 4, 4 and 3: one graph, of 4.
    assert len(fake.captured) == 1 and fake.captured[0].replays == 9
    classes = None if label_dim == 0 else torch.arange(11)[4:7] % 3
    close(sampler(labels=classes, seed=image_seeds(3, 3, start=4)), expected[4:7])
    assert len(fake.captured) == 1
    close(sampler(1, seed=3), expected[:1])
    close(sampler(2, seed=3), expected[:2])
    assert len(fake.captured) == 3


def test_given_noise_has_graphs_of_its_own(fake):
    model, noise = unet_model(), 80 * torch.randn(3, 2, 4, 4)
    sampler = Sampler(model, clip=False, steps=2, gamma=0.5, graphs=True)
    before = noise.clone()
    for seed in (1, 2):
        expected = Sampler(model, clip=False, steps=2, gamma=0.5, freeze=False)
        close(sampler(noise=noise, seed=seed), expected(noise=noise, seed=seed))
        close(sampler(3, seed=seed), expected(3, seed=seed))
    assert len(fake.captured) == 2 and torch.equal(noise, before)


def test_graphs_follow_the_weights(fake):
    model = unet_model()
    sampler = Sampler(model, clip=False, graphs=True)
    sampler(2)
    with torch.no_grad():
        model.net.last_layer.weight.mul_(2)
    close(sampler(2), Sampler(model, clip=False, freeze=False)(2))
    assert fake.captured[0].tape is None, "graphs of the old copy are freed"
    assert len(fake.captured) == 2


def test_a_sampler_that_is_dropped_frees_its_graphs_at_once(fake):
    sampler = Sampler(unet_model(), graphs=True)
    sampler(2)
    gone = weakref.ref(engine_of(sampler).pool)
    gc.disable()
    try:
        del sampler
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [dict(method="churn", steps=5), dict(steps=5, gamma=0.3)])
def test_long_runs_replay_a_graph_of_one_call(fake, monkeypatch, options):
    monkeypatch.setattr("ctm_fast.sampler.sampler.GRAPH_CALLS", 4)
    model = unet_model(label_dim=3)
    sampler = Sampler(model, clip=False, graphs=True, buckets=(2,), **options)
    expected = Sampler(model, clip=False, freeze=False, **options)(3, seed=1)
    close(sampler(3, seed=1), expected)
    assert len(fake.captured) == 1 and fake.captured[0].replays == 2 * sampler.nfe


def test_a_callback_or_a_bar_is_never_captured(fake):
    model, seen = unet_model(), []
    sampler = Sampler(model, steps=2, graphs=True)
    sampler(3, callback=lambda info: seen.append(info["x"].clone()))
    assert len(seen) == 2 and len(seen[0]) == 3 and not fake.captured
    Sampler(model, steps=2, graphs=True, progress=True)(3)
    Sampler(model, steps=2, graphs=False)(3)
    Sampler(small_model(), steps=2)(3)
    assert len(sampler.trajectory(3)) == 3 and not fake.captured


def test_what_cannot_be_captured_runs_without_unless_it_is_asked_for(fake, monkeypatch, caplog):
    original = Tabulated.jump

    def reading(self, x, *args):
        assert x.sum().item() != 0
        return original(self, x, *args)

    model = unet_model()
    expected = Sampler(model)(2)
    monkeypatch.setattr(Tabulated, "jump", reading)
    with caplog.at_level(logging.WARNING, "ctm_fast"):
        sampler = Sampler(model)
        close(sampler(2), expected)
        close(sampler(2), expected)
    assert len(caplog.records) == 1 and "capturing" in caplog.text
    with pytest.raises(RuntimeError, match="cannot be captured"):
        Sampler(model, graphs=True)(2)
