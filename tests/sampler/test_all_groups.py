"""Guided and routed models in a sampler: frozen as what they hold, and followed."""

import pickle

import pytest
import torch

from ctm_fast.inference import Tabulated
from ctm_fast.sampler import Sampler
from ctm_fast.sampler.engine import fingerprint, freezable
from ctm_fast.wrappers import Guided, Routed

from ..inference.fake_cuda import FakeCuda
from .worlds import World, small_model, unet_model


def guided(kind: str) -> Guided:
    return Guided(unet_model(kind), unet_model(kind, seed=1), weight=1.5)


def without_labels(kind: str) -> Guided:
    return Guided(unet_model(kind, label_dim=3), weight=1.5)


def routed(kind: str) -> Routed:
    return Routed([unet_model(kind), unet_model(kind, seed=1)], [1.0])


def nested(kind: str) -> Routed:
    return Routed([unet_model(kind), guided(kind)], [1.0])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    # Networks look at labels on a CPU only, and this one passes for a GPU.
    monkeypatch.setattr("ctm_fast.models.arguments._check_labels", lambda *args: None)
    return FakeCuda(monkeypatch)


CASES = [
    ("consistency", dict(steps=3)),
    ("consistency", dict(method="phased", edges=(3.0, 0.5), eta=0.9)),
    ("trajectory", dict(steps=3)),
    ("trajectory", dict(steps=3, gamma=0.5)),
    ("denoiser", dict(steps=4)),
]


@pytest.mark.parametrize("make", [guided, without_labels, routed, nested])
@pytest.mark.parametrize("kind, options", CASES)
def test_frozen_members_make_the_same_images(make, kind, options) -> None:
    model = make(kind)
    sampler = Sampler(model, clip=False, **options)
    assert sampler.freeze
    found = sampler(4, seed=1)
    plain = Sampler(model, clip=False, freeze=False, **options)(4, seed=1)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-3)
    frozen = sampler.__dict__["_engine"].frozen(model)
    assert type(frozen) is type(model) and frozen is not model
    members = [m for m in frozen.modules() if isinstance(m, Tabulated)]
    assert len(members) == {guided: 2, without_labels: 1, routed: 2, nested: 3}[make]
    torch.testing.assert_close(pickle.loads(pickle.dumps(sampler))(4, seed=1), found)


@pytest.mark.parametrize("make", [guided, without_labels, routed])
@pytest.mark.parametrize("kind, options", CASES)
def test_a_run_of_a_group_is_one_graph(make, kind, options, fake) -> None:
    model = make(kind)
    expected = Sampler(model, clip=False, freeze=False, **options)(7, seed=3)
    sampler = Sampler(model, clip=False, graphs=True, buckets=(4,), **options)
    for _ in range(2):
        torch.testing.assert_close(sampler(7, seed=3), expected, rtol=0, atol=1e-3)
    assert len(fake.captured) == 1
    assert fake.captured[0].replays == 4


@pytest.mark.parametrize("make", [guided, without_labels, routed, nested])
def test_nothing_reads_from_the_device(make) -> None:
    model = make("consistency").to("meta")
    assert Sampler(model, steps=2, freeze=False)(3).is_meta
    assert Sampler(model, steps=2)(3).is_meta


@pytest.mark.gpu
@pytest.mark.parametrize("make", [guided, without_labels, routed, nested])
@pytest.mark.parametrize("kind, options", CASES)
def test_gpu_graphs_of_groups_never_wait(make, kind, options) -> None:
    model = make(kind).cuda()
    expected = Sampler(model, clip=False, freeze=False, **options)(7, seed=3)
    sampler = Sampler(model, clip=False, graphs=True, buckets=(4,), **options)
    sampler(7, seed=3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        images = sampler(7, seed=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-2)


def test_the_copy_follows_every_member_and_the_settings() -> None:
    model = guided("consistency")
    sampler = Sampler(model, clip=False)
    before = sampler(2)
    for member in model.members:
        with torch.no_grad():
            member.net.last_layer.weight.mul_(1.5)
        after = sampler(2)
        assert not torch.equal(after, before), "stale weights"
        before = after
    model.weight = 3.0
    assert not torch.equal(sampler(2), before), "stale guidance weight"
    torch.testing.assert_close(
        sampler(2), Sampler(model, clip=False, freeze=False)(2), rtol=0, atol=1e-3
    )


def test_fingerprint_of_a_group() -> None:
    model = routed("consistency")
    assert fingerprint(model) == fingerprint(model)
    other = Routed(model.members, [2.0])
    assert fingerprint(other) != fingerprint(model)


def test_a_member_that_cannot_be_frozen_leaves_all_as_they_are() -> None:
    model = Guided(unet_model(), small_model(), weight=2)
    assert not freezable(model)
    assert not Sampler(model).freeze
    assert Sampler(model, clip=False)(2).isfinite().all()
    with pytest.raises(ValueError, match="freeze=True"):
        Sampler(model, freeze=True)


def test_one_network_twice_is_frozen_once() -> None:
    shared = unet_model("consistency")
    model = Routed([shared, unet_model("consistency", seed=1), shared], [0.5, 5.0])
    sampler = Sampler(model)
    sampler(1)
    first, _, last = sampler.__dict__["_engine"].frozen(model).members
    assert first is last


@pytest.mark.parametrize("freeze", [True, False])
def test_dtype_reaches_the_members(freeze) -> None:
    model = guided("consistency")
    half = Sampler(model, clip=False, dtype=torch.bfloat16, freeze=freeze)(2, seed=1)
    full = Sampler(model, clip=False)(2, seed=1)
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.2, atol=0.2)
    assert model.members[0].dtype is None


def test_noise_is_added_from_sigma_min_or_from_zero() -> None:
    model = small_model("consistency").eval()
    options = dict(steps=2, sigmas=[80.0, 0.004, 0.002], state_dtype=torch.float64)
    cm, ect = Sampler(model, **options), Sampler(model, renoise="zero", **options)
    assert (cm.renoise, ect.renoise) == ("sigma_min", "zero")
    paths = [sampler.trajectory(3, seed=2) for sampler in (cm, ect)]
    # x = f + std * noise, with the same f and the same noise.
    start = paths[0][0][1]
    clean = model(start, torch.full((3,), 80.0, dtype=torch.float64))
    ratio = (paths[1][1][1] - clean) / (paths[0][1][1] - clean)
    expected = torch.tensor(1 / (1 - 0.25) ** 0.5, dtype=torch.float64)
    torch.testing.assert_close(ratio, expected.expand_as(ratio), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="belongs to 'cm_multistep'"):
        Sampler(World("consistency"), renoise="zero")
    with pytest.raises(ValueError, match="renoise is 'half'"):
        Sampler(World("consistency"), steps=2, renoise="half")
