"""What the tests of the optimizer step share: weights of odd sizes, gradients, whole runs."""

from typing import Any

import torch

from ctm_fast.kernels.optimizer_step import Rule, Weights, optimizer_step

Tensor = torch.Tensor
# The last one is longer than a piece of parallel work of csrc/, the one before than Triton's.
SHAPES = [(8, 3, 3, 3), (64, 4, 1, 1), (3,), (), (7, 1, 3), (0, 4), (2048,), (2051,), (17000,)]
SMALL = SHAPES[:-1]


def drawn(seed: int, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Normal float32 tensors; images of weights are channels-last."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    return [v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for v in values]


def weights(
    averages: int = 2,
    shapes: list[tuple[int, ...]] = SHAPES,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Weights:
    """Fresh weights, moments of 0, and averages that start elsewhere."""
    rows = [drawn(k, shapes) for k in range(averages + 1)]
    rows = [[v.to(device, dtype) for v in row] for row in rows]
    moments = [[torch.zeros_like(v) for v in rows[0]] for _ in range(2)]
    return Weights(rows[0], *moments, torch.zeros(len(shapes), device=device), rows[1:])


def gradients(step: int, of: Weights, absent: tuple[int, ...] = ()) -> list[Tensor | None]:
    """The gradients of a step, alike in every dtype; None for the weights in `absent`."""
    values = drawn(1000 + step, [tuple(p.shape) for p in of.params])
    scale = 0.1 + step % 3
    return [
        None if i in absent else (scale * v).to(p.device, p.dtype)
        for i, (v, p) in enumerate(zip(values, of.params))
    ]


def run(of: Weights, rule: Rule, backend: str, steps: int = 10, **options: Any) -> Weights:
    """Some steps with a changing learning rate and changing decays, and gradients left out."""
    for step in range(steps):
        absent = (1, 3) if step in (2, 3, 7) else ()
        decays = [0.0, 0.4, 0.999, 0.9999][: len(of.averages)] if step % 2 else [0.9]
        decays = (decays * 4)[: len(of.averages)]
        lr = 1e-2 / (1 + step % 4)
        optimizer_step(
            of, gradients(step, of, absent), rule, lr, decays, backend=backend, **options
        )
    return of


def flat(of: Weights) -> list[Tensor]:
    """Weights, moments and averages, row after row."""
    return [t for row in of.rows for t in row]


def rows(of: Weights) -> list[Tensor]:
    """The same with each row as one vector: one number alone may be off by chance."""
    return [torch.cat([t.flatten() for t in row]) for row in of.rows]


def snapshot(of: Weights) -> list[Tensor]:
    """Copies of everything that a step changes."""
    return [t.clone() for t in (*flat(of), of.steps)]
