"""A small network for the solver tests."""

import torch
from torch import nn


class CurvedNet(nn.Module):
    """Smooth network that looks at everything it is given; rows do not mix."""

    img_channels, img_resolution, label_dim = 2, 4, 3

    def __init__(self, destination=False, dtype=torch.float64):
        super().__init__()
        self.has_destination = destination
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=dtype))
        self.calls, self.rows, self.inputs = 0, 0, []

    def forward(self, x, c_noise, c_noise_to=None, labels=None):
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        self.inputs.append(x)
        shift = c_noise + (0.0 if labels is None else 0.3 * labels)
        shift = shift + (0.0 if c_noise_to is None else 0.7 * c_noise_to)
        return torch.sin(self.scale * x + shift.reshape(-1, 1, 1, 1).to(x.dtype)).flip(1)
