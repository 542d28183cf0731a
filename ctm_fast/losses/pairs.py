"""Several pairs (u, s) on every solved trajectory, each of them distributed like a single one.

Legend: N is the grid size; i, i + n and k are the indices of t, u and s.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..timesteps import DESTINATIONS, Indices, TrajectoryLevels
from .objective import Batch

SHARED = ("t_index", "x_t")  # one per image; what else `flattened` keeps has one per pair
PAIRED = ("u_index", "s_index", "t", "s", "weight")


def draw_pairs(
    levels: TrajectoryLevels,
    batch_size: int,
    pairs: int,
    num_scales: int,
    generator: torch.Generator,
) -> Indices:
    """Starts (batch,), and step counts, u and s of every pair, (batch, pairs) each.

    The first pair is drawn as usual. The others get their n from P(n | i), which is proportional to
    P(n) / (N - n) for n <= N - 1 - i, so every pair alone has the usual distribution.
    """
    N, each = num_scales, replace(levels, per_sample=True)
    first = each.sample(batch_size, N, generator)
    n = torch.arange(1, levels.check(N) + 1)
    weights = levels.count_probabilities(N) / (N - n)
    fits = n <= N - 1 - first.t_index.cpu()[:, None]
    table = (weights * fits).to(generator.device)
    more = 1 + torch.multinomial(table, pairs - 1, replacement=True, generator=generator)
    steps = torch.cat([torch.as_tensor(first.num_steps)[:, None], more], dim=1)
    u = first.t_index[:, None] + steps
    others = DESTINATIONS[levels.destination](u[:, 1:].flatten(), N, generator)
    s = torch.cat([first.s_index[:, None], others.reshape(batch_size, -1)], dim=1)
    return Indices(steps, first.t_index, u, s)


def flattened(batch: Batch, pairs: int) -> Batch:
    """The batch with one row per pair, image by image; of `draw` only what the jumps need."""
    if pairs == 1:
        return batch

    def rows(values: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {k: v for k, v in values.items() if k in PAIRED or k.startswith("target_")}
        flat = {k: v.flatten(0, 1) for k, v in found.items()}
        shared = {k: values[k] for k in SHARED if k in values}
        return flat | {k: v.repeat_interleave(pairs, 0) for k, v in shared.items()}

    labels = batch.labels
    if labels is not None and len(labels) == len(batch):
        labels = labels.repeat_interleave(pairs, 0)
    return Batch(batch.images, labels, rows(batch.draw), rows(batch.host))


def per_image(values: Tensor, pairs: int) -> Tensor:
    """(batch, pairs, ...) of values with one row per pair; unchanged for a single pair."""
    return values if pairs == 1 else values.unflatten(0, (-1, pairs))
