"""What a sampler runs: the model itself, or a frozen copy that follows it, with CUDA graphs."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..inference.freeze import freeze
from ..inference.graphs import GraphPool
from ..inference.tables import Tabulated
from ..models.unet import UNet
from ..wrappers import Group

# 18 Heun steps are 35 network calls, EDM's 40 are 79. A graph of a U-Net has about 600 kernels
# per call; longer runs replay a graph of one call.
GRAPH_CALLS = 80
FREEZES = ("cpu", "cuda")


class Engine:
    """A frozen copy of a model, made anew when the model has changed, and graphs of the copy.

    Args:
        dtype: of the copy's weights; None for what the model computes in.
        strict: whether it is an error if the copy cannot be captured.
    """

    def __init__(self, dtype: torch.dtype | None = None, strict: bool = False) -> None:
        self.dtype = dtype
        self.pool = GraphPool(fallback="error" if strict else "eager")
        self._seen: list[Any] | None = None
        self._frozen: Any = None

    def frozen(self, model: Any) -> Any:
        """The copy; the model itself on a device that has no use for one.

        Raises:
            ValueError: if the copy's output differs too much from the model's.
        """
        if next(model.parameters()).device.type not in FREEZES:
            return computing_in(model, self.dtype)
        seen = fingerprint(model)
        if self._frozen is None or seen != self._seen:
            self.clear()
            self._frozen, self._seen = self._made(model), seen
        return self._frozen

    def _made(self, model: Any) -> Any:
        if isinstance(model, Group):
            return each_member(model, self._made)
        dtype = next(model.net.parameters()).dtype
        if isinstance(model, Tabulated) and self.dtype in (None, dtype):
            # Frozen already: the weights are shared, but graphs need a table that nobody else cuts.
            return copy.copy(model)
        try:
            return freeze(model, self.dtype or model.dtype)
        except ValueError as error:
            raise ValueError(f"{error}; freeze=False samples the model itself") from error

    def clear(self) -> None:
        """Forget the copy and its graphs."""
        self.pool.clear()
        self._frozen = self._seen = None


class CallByCall:
    """A model whose calls are graphs, one per method and batch size, for runs of many steps."""

    def __init__(self, model: Denoiser, pool: GraphPool) -> None:
        self.model, self.pool = model, pool
        self.kind, self.sigma_min = model.kind, model.sigma_min

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[image | x]; see `Denoiser.forward`."""
        # A solver holds on to results, and a graph's are overwritten by its next call.
        return self.pool.run("denoise", self.model, x, sigma, labels).clone()

    def jump(
        self, x: Tensor, sigma: Tensor, sigma_to: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """G(x, sigma, sigma_to); see `Denoiser.jump`."""
        return self.pool.run("jump", self.model.jump, x, sigma, sigma_to, labels).clone()


def freezable(model: Any) -> bool:
    """Whether `freeze` makes a copy that does the same; a subclass may do something else."""
    if isinstance(model, Group):
        return all(freezable(member) for member in model.members)
    return type(model) in (Denoiser, Tabulated) and isinstance(model.net, UNet)


def each_member(group: Group, function: Callable[[Any], Any]) -> Group:
    """The group of what a function makes of its members; a member that comes twice, once."""
    made = {id(member): function(member) for member in group.members}
    return group.of([made[id(member)] for member in group.members])


def fingerprint(model: Any) -> list[Any]:
    """What changes when a model does: where its weights lie, and how often each was written.

    Writing through `tensor.data` is not seen.
    """
    if isinstance(model, Group):
        return [model.settings, *(fingerprint(member) for member in model.members)]
    # Before every call of a sampler, so written for speed.
    found: list[Tensor | None] = []
    modules: list[nn.Module | None] = [model.net]
    while modules:
        module = modules.pop()
        if module is not None:
            found += module._parameters.values()
            found += module._buffers.values()
            modules += module._modules.values()
    tensors = [t for t in found if t is not None]
    try:
        writes: Any = [t._version for t in tensors]
    except RuntimeError:  # of inference tensors nobody counts them: take each call for one
        writes = object()
    options = (model.precond, model.kind, model.dtype, model.sigma_min, model.sigma_max)
    return [options, [t.data_ptr() for t in tensors], writes]


def computing_in(model: Any, dtype: torch.dtype | None) -> Any:
    """The model, or a copy that shares its modules and weights but computes in another dtype."""
    if dtype is None:
        return model
    if isinstance(model, Group):
        return each_member(model, lambda member: computing_in(member, dtype))
    twin = copy.copy(model)
    twin.dtype = dtype
    return twin


def padded(rows: Tensor | None, size: int) -> Tensor | None:
    """Rows with the last one repeated, (size, ...)."""
    if rows is None or len(rows) == size:
        return rows
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])


def device_of(model: Any, noise: Tensor | None) -> torch.device:
    """Where a model's weights are; where the noise is for a model without any."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu") if noise is None else noise.device


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Model in eval mode; every module gets its previous mode back."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
