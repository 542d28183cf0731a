"""The networks that are timed: reproducible, with activations of a sensible size."""

import pytest
import torch

from benchmarks import networks


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (networks.network("digits", seed) for seed in (0, 0, 1))
    one, two, three = (net.state_dict() for net in (first, again, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["input_conv.weight"], three["input_conv.weight"])


@pytest.mark.parametrize("name", ["digits", "ctm-digits", "photo-patches"])
def test_outputs_are_of_the_size_of_images(name: str) -> None:
    net = networks.network(name)
    x, c_noise, to, labels = networks.inputs(net, 3)
    assert (to is not None) == net.has_destination
    assert (labels is not None) == bool(net.label_dim)
    with torch.no_grad():
        assert 0.1 < net(x, c_noise, to, labels).std() < 3


def test_the_scalings_follow_the_family() -> None:
    assert networks.preconditioning(networks.network("digits")).noise_embedding == "quarter_log"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown network 'gelu'"):
        networks.network("gelu")
