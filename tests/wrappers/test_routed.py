"""One network per range of noise levels."""

import pytest
import torch

from ctm_fast.sampler import Sampler
from ctm_fast.sigmas import SigmaRange
from ctm_fast.wrappers import Guided, Routed

from ..sampler.worlds import World, latents, small_model


def three(kind: str = "trajectory") -> tuple[list, Routed]:
    models = [small_model(kind, seed=seed).eval() for seed in range(3)]
    return models, Routed(models, [0.5, 5.0]).eval()


def test_ranges() -> None:
    _, routed = three()
    low, middle, high = SigmaRange(0.002, 0.5), SigmaRange(0.5, 5.0), SigmaRange(5.0, 80.0, True)
    assert routed.ranges == [low, middle, high]
    for model, sigma in zip([0, 0, 1, 1, 2, 2, 2], [0.001, 0.4, 0.5, 4, 5, 80, 81], strict=True):
        assert routed.model_at(sigma) is routed.members[model]


@pytest.mark.parametrize("kind", ["denoiser", "consistency", "trajectory"])
def test_every_image_goes_to_the_network_of_its_level(kind: str) -> None:
    models, routed = three(kind)
    levels = [7.0, 0.5, 0.1, 0.7, 80.0]
    x = latents(5)
    sigma = torch.tensor(levels, dtype=torch.float64)
    for number, level, whose in zip(range(5), levels, [2, 1, 0, 1, 2], strict=True):
        row = x[number : number + 1]
        expected = models[whose](row, level)
        torch.testing.assert_close(routed(x, sigma)[number : number + 1], expected)
        torch.testing.assert_close(routed(row, level), expected)
        if kind == "trajectory":
            both = routed.jump(x, sigma, sigma / 3)[number : number + 1]
            torch.testing.assert_close(both, models[whose].jump(row, level, level / 3))


def test_labels_are_those_of_the_images() -> None:
    low, high = small_model(label_dim=3).eval(), small_model(seed=1).eval()
    routed = Routed([low, high], [1.0]).eval()
    x, labels = latents(3).float(), torch.tensor([2, 0, 1])
    found = routed(x, torch.tensor([0.5, 2.0, 0.7]), labels)
    torch.testing.assert_close(found[:1], low(x[:1], 0.5, labels[:1]))
    torch.testing.assert_close(found[1:2], high(x[1:2], 2.0))
    torch.testing.assert_close(found[2:], low(x[2:], 0.7, labels[2:]))


def test_where_levels_must_not_be_looked_at_all_networks_run(monkeypatch) -> None:
    _, routed = three()
    x, sigma = latents(3), torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    expected = routed.jump(x, sigma, sigma / 2)
    monkeypatch.setattr(Routed, "_own_rows", Routed._all_rows)
    torch.testing.assert_close(routed.jump(x, sigma, sigma / 2), expected)
    # A meta tensor has no values: looking at one would be an error.
    elsewhere = three()[1].to("meta")
    x, sigma = x.to("meta"), sigma.to("meta")
    assert elsewhere(x, sigma).is_meta
    assert elsewhere.jump(x, sigma, sigma / 2).shape == x.shape


def test_two_steps_of_a_truncated_model() -> None:
    """With a middle level above the boundary the first stage is never called."""
    for middle, calls in [(1.526, (0, 2)), (1.0, (0, 2)), (0.821, (1, 1))]:
        first, second = World("consistency"), World("consistency")
        sampler = Sampler(Routed([first, second], [1.0]), sigmas=[80, middle, 0.002])
        assert (sampler.method, sampler.nfe) == ("cm_multistep", 2)
        sampler(3)
        assert (first.calls, second.calls) == calls


def test_groups_in_groups() -> None:
    guided = Guided(World("denoiser"), World("denoiser"), weight=2)
    assert Routed([World("denoiser"), guided], [1.0]).network_calls == 2


def test_what_does_not_fit() -> None:
    for boundaries in ([], [1.0, 2.0]):
        with pytest.raises(ValueError, match="need 1 boundaries"):
            Routed([World(), World()], boundaries)
    for boundary in (0.001, 80.0, 100.0):
        with pytest.raises(ValueError, match="must increase"):
            Routed([World(), World()], [boundary])
    with pytest.raises(ValueError, match="cannot answer in"):
        Routed([World("denoiser", sigma_max=0.5), World("denoiser")], [1.0])
    with pytest.raises(ValueError, match="cannot answer in"):
        Routed([World("denoiser"), World("denoiser", sigma_min=2.0)], [1.0])


def test_gradients_reach_the_networks_that_were_asked() -> None:
    models = [small_model(seed=seed) for seed in range(3)]
    routed = Routed(models, [0.5, 5.0])
    routed(latents(2).float(), torch.tensor([0.1, 10.0])).sum().backward()
    assert models[0].net.first.weight.grad.norm() > 0
    assert models[1].net.first.weight.grad is None
    assert models[2].net.first.weight.grad.norm() > 0
