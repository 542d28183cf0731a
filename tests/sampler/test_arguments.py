"""What a caller asks for, and what is refused."""

import numpy as np
import pytest
import torch

from ctm_fast.sampler.arguments import (
    checked_labels,
    checked_noise,
    host_noise,
    image_shape,
    number_of_images,
    request,
)

from .worlds import World

NOISE = torch.zeros(3, 2, 4, 4)


@pytest.mark.parametrize(
    "num, labels, seed, noise",
    [
        (3, None, 0, None),
        (None, [0, 1, 1], 0, None),
        (None, torch.tensor([0, 1, 1]), [4, 5, 6], None),
        (None, None, [4, 5, 6], None),
        (3, 1, 0, NOISE),
        (None, None, 0, NOISE),
        (None, torch.tensor(2), (1, 2, 3), None),
    ],
)
def test_any_argument_may_say_how_many(num, labels, seed, noise):
    assert number_of_images(num, labels, seed, noise) == 3


def test_one_label_alone_is_one_image():
    assert number_of_images(None, 4, 0, None) == 1


@pytest.mark.parametrize(
    "num, labels, seed, noise, named",
    [
        (None, None, 0, None, "how many"),
        (0, None, 0, None, "0"),
        (-2, None, 0, None, "-2"),
        (2.0, None, 0, None, "2.0"),
        (4, [0, 1], 0, None, "labels"),
        (None, [0, 1], [1, 2, 3], None, "seed"),
        (2, None, 0, NOISE, "noise"),
        (None, [], 0, None, "0"),
    ],
)
def test_numbers_that_disagree(num, labels, seed, noise, named):
    with pytest.raises(ValueError, match=named):
        number_of_images(num, labels, seed, noise)


def test_labels():
    assert checked_labels(None, 3, 0) is None
    assert checked_labels(None, 7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    for labels in ([2, 0], (2, 0), np.array([2, 0]), torch.tensor([2, 0], dtype=torch.int32)):
        classes = checked_labels(labels, 2, 3)
        assert classes.tolist() == [2, 0] and classes.dtype == torch.int64
    assert checked_labels(1, 2, 3).tolist() == [1, 1]


@pytest.mark.parametrize(
    "labels, label_dim, named",
    [
        ([0, 3], 3, r"3 is outside \[0, 3\)"),
        ([-1, 0], 3, "-1"),
        ([0, 1, 2], 3, r"\(2,\)"),
        ([0, 1], 0, "unconditional"),
        (0, 0, "unconditional"),
        ([0.0, 1.0], 3, "float32"),
        ([True, False], 3, "bool"),
        (["cat", "dog"], 3, "cat"),
        (torch.zeros(2, 3), 3, "float32"),
        (torch.zeros(2, 3, dtype=torch.int64), 3, r"\(2, 3\)"),
    ],
)
def test_bad_labels(labels, label_dim, named):
    with pytest.raises(ValueError, match=named):
        checked_labels(labels, 2, label_dim)


def test_noise():
    assert checked_noise(NOISE, 3, (2, 4, 4)) is NOISE
    for wrong in (NOISE[:, :1], NOISE[0], NOISE.long(), [1.0]):
        with pytest.raises(ValueError, match="noise"):
            checked_noise(wrong, 3, (2, 4, 4))


def test_sources_of_noise():
    generator = torch.Generator()
    assert host_noise(None, None, None) is None and host_noise(3, None, None) is None
    assert host_noise(None, generator, None).generator is generator
    assert host_noise(None, None, torch.randn_like).randn_like is torch.randn_like
    for sources, named in [
        ((0, generator, None), "seed and generator"),
        ((None, generator, torch.randn_like), "generator and randn_like"),
        (([1], None, torch.randn_like), "seed and randn_like"),
        ((None, 3, None), "generator has 3"),
        ((None, [generator, None], None), "generator has None"),
        ((None, None, 3), "randn_like is 3"),
    ]:
        with pytest.raises(ValueError, match=named):
            host_noise(*sources)


def test_requests():
    order = request(World(), 3)
    assert (order.num, order.shape, order.host, order.noise) == (3, (2, 4, 4), None, None)
    assert order.seeds.tolist() == request(World(), 3, seed=0).seeds.tolist()
    assert request(World(), None, seed=iter([4, 5])).seeds.tolist() == [4, 5]
    listed = [torch.Generator(), torch.Generator()]
    order = request(World(), None, generator=listed)
    assert (order.num, order.seeds, order.host.generator) == (2, None, listed)
    with pytest.raises(ValueError, match=r"disagree.*generator"):
        request(World(), 3, generator=listed)
    with pytest.raises(ValueError, match="how many"):
        request(World(), None, generator=listed[0])
    assert request(World(), None, noise=NOISE, generator=listed[0]).num == 3


def test_shapes():
    assert image_shape(World()) == (2, 4, 4)
    assert image_shape(World(img_shape=(1, 2, 3))) == (1, 2, 3)
    assert image_shape(World(img_shape=None), NOISE) == (2, 4, 4)
    with pytest.raises(ValueError, match="shape="):
        image_shape(World(img_shape=None))
