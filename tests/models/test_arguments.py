"""What networks accept, and how they refuse the rest."""

import pytest
import torch

from ctm_fast.models.arguments import check_conditions, check_images
from ctm_fast.models.configs import SongConfig

CONFIG = SongConfig(channel_mult=(1, 2, 2), label_dim=4, augment_dim=3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 8, 8), r"\(2, 1, 8, 8\); this network takes \(batch, 3, H, W\)"),
        ((3, 8, 8), r"\(3, 8, 8\)"),
        ((2, 3, 8, 6), "8x6 pixels; height and width must divide by 4"),
    ],
)
def test_images_of_another_shape_are_refused(shape, message):
    check_images(CONFIG, torch.zeros(2, 3, 8, 12))
    with pytest.raises(ValueError, match=message):
        check_images(CONFIG, torch.zeros(shape))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"c_noise": None}, "needs c_noise"),
        ({"c_noise": torch.zeros(3)}, r"c_noise has shape \(3,\); need \(2,\) or \(1,\)"),
        ({"c_noise_to": torch.zeros(2)}, "no destination embedding"),
        ({"labels": torch.tensor([0, 4])}, r"from 0 to 4; classes are 0\.\.3"),
        ({"labels": torch.tensor([0])}, r"shape \(1,\); need \(2,\)"),
        ({"labels": torch.zeros(2, 3)}, r"shape \(2, 3\); need \(2, 4\)"),
        ({"augment_labels": torch.zeros(2, 4)}, r"takes \(2, 3\)"),
    ],
)
def test_conditions_that_do_not_suit_are_refused(given, message):
    good = dict(c_noise=torch.zeros(2), c_noise_to=None, labels=None, augment_labels=None)
    check_conditions(CONFIG, 2, **good)
    with pytest.raises(ValueError, match=message):
        check_conditions(CONFIG, 2, **{**good, **given})
