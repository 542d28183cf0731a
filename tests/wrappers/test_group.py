"""What a group takes from its members."""

import copy
import pickle

import pytest
import torch

from ctm_fast.wrappers import ClassifierGuided, Guided, Routed, wrap
from ctm_fast.wrappers.group import calls_of, labels_for, level_of

from ..sampler.worlds import World, latents, small_model


def test_it_looks_like_one_denoiser() -> None:
    low, high = small_model(label_dim=3), small_model(seed=1)
    group = Routed([high, low], [1.0])
    assert (group.kind, group.img_channels, group.img_resolution) == ("trajectory", 2, 4)
    assert (group.label_dim, group.sigma_data, group.dtype) == (3, 0.5, None)
    assert (group.sigma_min, group.sigma_max) == (0.002, 80.0)
    assert len(list(group.parameters())) == len([*low.parameters(), *high.parameters()])
    assert not group.eval().members[0].training
    x, sigma = latents(2, 3.0).float(), torch.tensor([0.3, 3.0])
    expected = (group(x, sigma) - x) / sigma.reshape(2, 1, 1, 1) ** 2
    torch.testing.assert_close(group.score(x, sigma), expected)


def test_copies_and_pickles_keep_members_and_modules_together() -> None:
    for twin in (
        copy.deepcopy(Guided(small_model(), small_model(seed=1))),
        pickle.loads(pickle.dumps(Guided(small_model(), small_model(seed=1)))),
    ):
        assert list(twin.modules_of_members) == list(twin.members)
        twin.double()
        x = latents(2)
        assert twin(x, 1.0).dtype == torch.float64


def test_members_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="different kind"):
        Guided(World("denoiser"), World("trajectory"))
    with pytest.raises(ValueError, match="different img_resolution"):
        Guided(World(), World(img_resolution=8))
    with pytest.raises(ValueError, match="at least one model"):
        Routed([], [])
    with pytest.raises(ValueError, match="jump to different levels"):
        Guided(World("consistency"), World("consistency", sigma_min=0.01))


def flowing(shape=(1, 4, 6), **options):
    return wrap(lambda x, t: -x, kind="velocity", time="flow", shape=shape, **options)


def test_foreign_members_keep_their_shape_and_levels() -> None:
    """A guided model takes the images and steps of the model alone."""
    one, other, narrow = flowing(), flowing(), flowing(sigma_min=0.01, sigma_max=50.0)
    classifier = lambda x, sigma: x.flatten(1)[:, :3]  # noqa: E731
    for group in (Guided(one, other), ClassifierGuided(one, classifier), Routed([one, one], [1])):
        assert group.img_shape == (1, 4, 6)
        assert group.ode_range == one.ode_range == (0.002, 80.0) != (one.sigma_min, one.sigma_max)
        assert torch.equal(group.even_sigmas(4), one.even_sigmas(4))
    assert Guided(one, narrow).ode_range == narrow.ode_range == (0.01, 50.0)
    assert Guided(one, narrow).even_sigmas(4) is None
    assert Routed([one, narrow], [1.0]).ode_range == (0.002, 50.0)
    ours = Guided(small_model(), small_model(seed=1))
    assert ours.img_shape == (2, 4, 4) and ours.ode_range == (0.002, 80.0)
    assert ours.even_sigmas(4) is None
    with pytest.raises(ValueError, match="images of different shapes"):
        Guided(one, flowing((1, 4, 8)))


def test_helpers() -> None:
    world, model = World(), small_model()
    x = latents(3)
    assert level_of(model, 2.0, x) == 2.0
    assert level_of(world, 2.0, x).tolist() == [2.0] * 3
    assert calls_of(model) == 1
    assert calls_of(Guided(model, model, weight=2)) == 2
    labels = torch.tensor([1])
    assert labels_for(world, labels) is None
    assert labels_for(small_model(label_dim=2), labels) is labels
