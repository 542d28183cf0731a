"""A small image classifier that trains in seconds on one core; the judge of class metrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctm_fast.rng import stream

STEPS = 240
BATCH_SIZE = 128
NOISE = 0.1  # standard deviation added to training images, in units of [-1, 1]
PEAK_LR = 4e-3

_CLASSIFIER = 0x636C617373  # keeps these streams apart from others with the same seed


class SmallClassifier(nn.Module):
    """Two convolutions and two linear layers on images of at least 4x4 pixels.

    Args:
        shape: (C, H, W) of the images.
        num_classes: number of classes.
        seed: of the initial weights; the global random state is not touched.
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):
            self.conv0 = nn.Conv2d(shape[0], 32, 3, padding=1)
            self.conv1 = nn.Conv2d(32, 64, 3, padding=1, stride=2)
            self.linear0 = nn.Linear(64 * 16, 128)
            self.linear1 = nn.Linear(128, num_classes)
        self.to_empty(device="cpu")
        generator = stream(seed, _CLASSIFIER, 0)
        for layer in (self.conv0, self.conv1, self.linear0, self.linear1):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, C, H, W) in [-1, 1]."""
        x = functional.relu(self.conv0(images))
        x = functional.relu(self.conv1(x))
        x = functional.adaptive_avg_pool2d(x, 4).flatten(1)
        return self.linear1(functional.relu(self.linear0(x)))

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (N, num_classes) float32 of images (N, C, H, W) in [-1, 1]."""
        return torch.cat([self(part).softmax(1) for part in images.float().split(512)])


def trained_classifier(
    images: Tensor, labels: Tensor, num_classes: int, seed: int = 0, steps: int = STEPS
) -> SmallClassifier:
    """Classifier fitted to the given images; about two seconds for 1,800 images of 8x8 pixels.

    Args:
        images: (N, C, H, W) in [-1, 1], on the CPU.
        labels: (N,) int64 in [0, num_classes).
        num_classes: number of classes.
        seed: the result is a function of the images, this number and the thread count.
        steps: optimizer steps of 128 images.
    """
    _, channels, height, width = images.shape
    classifier = SmallClassifier((channels, height, width), num_classes, seed)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=PEAK_LR)
    images = images.float()
    with torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LR * 0.5 * (1 + math.cos(math.pi * step / steps))
            generator = stream(seed, _CLASSIFIER, 1, step)
            chosen = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
            noise = torch.randn(BATCH_SIZE, *images.shape[1:], generator=generator)
            logits = classifier(images[chosen] + NOISE * noise)
            optimizer.zero_grad()
            functional.cross_entropy(logits, labels[chosen]).backward()
            optimizer.step()
    return classifier.requires_grad_(False).eval()
