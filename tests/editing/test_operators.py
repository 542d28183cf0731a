"""What is known: A A+ = 1, A+ A is an orthogonal projector, and bad operators are refused."""

import pytest
import torch

from ctm_fast.editing import Colourisation, Inpainting, SuperResolution

from .worlds import left_half

MASKS = torch.stack([left_half(), ~left_half(), torch.eye(4).bool()])[:, None]
OPERATORS = [
    Inpainting(left_half()),
    Inpainting(left_half().float()),
    Inpainting(MASKS),
    Colourisation(),
    Colourisation((0.2, 0.5, 0.3)),
    SuperResolution(2),
    SuperResolution(4),
]
IDS = [f"{i}-{type(operator).__name__}" for i, operator in enumerate(OPERATORS)]


def images(num: int = 3, scale: float = 0.5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num, 3, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("operator", OPERATORS, ids=IDS)
def test_it_is_a_projection_along_orthogonal_axes(operator) -> None:
    x, y = images(), images(seed=1)
    measured = operator.measure(x)
    assert measured.shape[1:] == operator.measured_shape((3, 4, 4))
    torch.testing.assert_close(operator.measure(operator.spread(measured)), measured)

    def projected(z):
        return operator.spread(operator.measure(z))

    torch.testing.assert_close((projected(x) * y).sum(), (x * projected(y)).sum())
    replaced = operator.replaced(x, operator.measure(y))
    torch.testing.assert_close(operator.measure(replaced), operator.measure(y))
    torch.testing.assert_close(replaced - projected(replaced), x - projected(x))


@pytest.mark.parametrize("operator", OPERATORS, ids=IDS)
def test_the_nearest_images_in_range_keep_what_is_known(operator) -> None:
    x = images(scale=2.0)
    measured = operator.measure(images(seed=1).clamp(-1, 1))
    clipped = operator.clipped(x, measured)
    assert clipped.abs().max() <= 1
    torch.testing.assert_close(operator.measure(clipped), measured, rtol=0, atol=1e-12)
    # Nearest: no other admissible image lies at an obtuse angle.
    for seed in range(5):
        other = operator.replaced(images(scale=0.1, seed=seed), measured).clamp(-1, 1)
        other = operator.clipped(other, measured)
        angle = ((x - clipped) * (other - clipped)).flatten(1).sum(1)
        assert (angle < 1e-9).all()
    inside = operator.replaced(images(scale=0.01), 0 * measured)
    torch.testing.assert_close(operator.clipped(inside, 0 * measured), inside)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_white_and_black_means_leave_one_image_only(value) -> None:
    for operator in (Colourisation(), SuperResolution(2)):
        measured = torch.full((3, *operator.measured_shape((3, 4, 4))), value)
        clipped = operator.clipped(images().float(), measured)
        torch.testing.assert_close(clipped, torch.full((3, 3, 4, 4), value), rtol=0, atol=1e-6)


def test_colours_bring_no_tensor_to_the_device(monkeypatch) -> None:
    """A tensor that is made of numbers in every step would make the host wait for a GPU."""
    operator, images = Colourisation(), torch.rand(2, 3, 4, 4)
    monkeypatch.delattr(torch, "tensor")
    measured = operator.measure(images)
    torch.testing.assert_close(operator.replaced(images, measured), images)


def test_it_is_the_papers_rotation_with_a_mask() -> None:
    """Song et al. 2023: A rotates, so that the first coordinate is the known one."""
    colour, patch = torch.tensor(Colourisation().weights).double(), torch.ones(4).double()
    for operator, axis in ((Colourisation(), colour), (SuperResolution(2), patch)):
        basis = torch.cat([axis[:, None], torch.randn(len(axis), len(axis) - 1).double()], 1)
        A = torch.linalg.qr(basis).Q.T
        x, y = images(), images(seed=1)
        if len(axis) == 3:
            rotated = [torch.einsum("ij,bjhw->bihw", A, z) for z in (x, y)]
        else:
            patches = [z.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4) for z in (x, y)]
            rotated = [(z @ A.T).movedim(-1, 1) for z in patches]
        mixed = torch.cat([rotated[1][:, :1], rotated[0][:, 1:]], 1)
        found = operator.replaced(x, operator.measure(y))
        if len(axis) == 3:
            expected = torch.einsum("ji,bjhw->bihw", A, mixed)
        else:
            found = found.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
            expected = mixed.movedim(1, -1) @ A
        torch.testing.assert_close(found, expected)


def test_masks_of_all_shapes() -> None:
    x, y = images(), images(seed=1)
    for mask in (left_half(), left_half()[None], left_half().expand(3, 4, 4)):
        replaced = Inpainting(mask).replaced(x, y)
        assert torch.equal(replaced[..., :2], y[..., :2])
        assert torch.equal(replaced[..., 2:], x[..., 2:])
    per_channel = torch.zeros(3, 4, 4)
    per_channel[1] = 1
    replaced = Inpainting(per_channel).replaced(x, y)
    assert torch.equal(replaced[:, 1], y[:, 1]) and torch.equal(replaced[:, ::2], x[:, ::2])
    own = Inpainting(MASKS).rows(slice(1, 3))
    assert torch.equal(own.known, MASKS[1:])
    assert Inpainting(left_half()).rows(slice(1, 3)).known.shape == (1, 4, 4)


def test_a_mask_is_a_copy() -> None:
    mask = left_half()
    operator = Inpainting(mask)
    mask[:] = True
    assert not operator.known.all()


BAD_MASKS = [
    (torch.ones(4), r"the mask is \(4,\); need \(H, W\)"),
    ([[1, 0]], "the mask is list"),
    (torch.zeros(4, 4), "no pixel is known by the mask of image 0"),
    (torch.ones(4, 4), "every pixel is known by the mask of image 0"),
    (torch.stack([left_half(), left_half() & False])[:, None], "no pixel .* image 1"),
    (torch.full((4, 4), 0.5), "values from 0.5 to 0.5; need 1 where"),
    (torch.tensor([[0.0, float("nan")]]), "values from nan"),
    (255 * left_half().int(), "values from 0 to 255"),
    (torch.ones(0, 4), r"the mask is \(0, 4\)"),
]


@pytest.mark.parametrize("mask, message", BAD_MASKS)
def test_bad_masks_are_refused(mask, message) -> None:
    with pytest.raises(ValueError, match=message):
        Inpainting(mask)


@pytest.mark.parametrize("weights", [(1, 0, 0), (0.5, 0.5), (0.3, 0.3, 0.3), (0.5, 0.8, -0.3)])
def test_bad_weights_are_refused(weights) -> None:
    with pytest.raises(ValueError, match="need three positive ones of sum 1"):
        Colourisation(weights)


@pytest.mark.parametrize("factor", [1, 0, -2, 2.0, True])
def test_bad_factors_are_refused(factor) -> None:
    with pytest.raises(ValueError, match=r"factor is .*; it must be an integer, at least 2"):
        SuperResolution(factor)


MISFITS = [
    (Inpainting(torch.eye(3)), (3, 4, 4), r"the mask is \(1, 3, 3\) and the model's images"),
    (Inpainting(torch.eye(4).expand(2, 4, 4)), (3, 4, 4), "or 1 or 3 of them"),
    (Colourisation(), (1, 4, 4), r"images are \(1, 4, 4\); colours need \(3, H, W\)"),
    (SuperResolution(3), (1, 4, 4), "factor 3 does not divide the images, 4x4"),
]


@pytest.mark.parametrize("operator, shape, message", MISFITS)
def test_operators_that_do_not_fit_are_refused(operator, shape, message) -> None:
    with pytest.raises(ValueError, match=message):
        operator.measured_shape(shape)


def test_what_is_known_is_checked() -> None:
    with pytest.raises(ValueError, match=r"is known is \(2, 3, 4, 4\); need \(batch, 3, 2, 2\)"):
        SuperResolution(2).checked(torch.zeros(2, 3, 4, 4), (3, 4, 4), True)
    with pytest.raises(ValueError, match="3 masks for 2 images; need one each"):
        Inpainting(MASKS).checked(torch.zeros(2, 3, 4, 4), (3, 4, 4), True)
    bright = torch.full((2, 3, 4, 4), 1.5)
    with pytest.raises(ValueError, match=r"what is known has values up to 1.5"):
        Inpainting(left_half()).checked(bright, (3, 4, 4), True)
    assert Inpainting(left_half()).checked(bright, (3, 4, 4), False).max() == 1.5


def test_unknown_pixels_may_have_any_value() -> None:
    given = torch.zeros(1, 3, 4, 4)
    given[..., 2:] = float("nan")
    assert not Inpainting(left_half()).checked(given, (3, 4, 4), True).any()
