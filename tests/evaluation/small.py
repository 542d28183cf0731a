"""Small extractors and images for the tests of evaluation at full size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctm_fast.data.dataset import ArrayDataset
from ctm_fast.evaluation import Extractor
from ctm_fast.rng import stream

WIDTH, CLASSES = 6, 4


class Features(nn.Module):
    """Six features of images of any size, with four logits where asked for."""

    def __init__(self, seed: int = 0, logits: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.logits = logits
        generator = stream(seed, 1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        self.eval()

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.relu(self.conv(images.float() / 127.5 - 1))
        features = self.linear(x.mean((2, 3)))
        return (features, self.head(features)) if self.logits else features


class ScriptedFeatures(nn.Module):
    """Gives features on request only, as a published TorchScript network does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        x = self.linear(images.float().mean([2, 3]) / 255)
        return x if return_features else x.softmax(1)[:, :2]


def extractor(seed: int = 0, logits: bool = True) -> Extractor:
    """Extractor of `Features`."""
    return Extractor(Features(seed, logits), "small")


def noise(number: int, seed: int = 0, shift: int = 0, size: int = 8) -> ArrayDataset:
    """Images of uniform bytes, brighter with `shift`, up to 200."""
    made = torch.randint(0, 56, (number, 3, size, size), generator=stream(seed, 2))
    ramp = torch.randint(0, 200 - shift, (number, 3, 1, 1), generator=stream(seed, 3))
    return ArrayDataset((made + ramp + shift).to(torch.uint8), name=f"noise-{seed}-{shift}")


def correlated(number: int, width: int, seed: int = 0) -> Tensor:
    """Features (number, width) float64 with a full covariance and a mean that is not zero."""
    generator = stream(seed, 4)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    unit = torch.randn(number, width, generator=generator, dtype=torch.float64)
    return unit @ mixing + torch.randn(width, generator=generator, dtype=torch.float64)
