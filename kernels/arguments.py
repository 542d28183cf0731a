"""What the ops share about their arguments: broadcasting, layout, checks, random examples."""

from collections.abc import Sequence
from typing import Any

import torch

STATE_DTYPES = (torch.float32, torch.float64)
# Asked once: the compiler of torch 2.11 stops at the question.
AUTOCAST = tuple(
    kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind)
)


def column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(batch,) values as (batch, 1, ..., 1), to be broadcast over `like`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def same_dense_layout(*tensors: torch.Tensor) -> bool:
    """Whether tensors of one shape are all contiguous, or all channels-last."""
    if all(t.is_contiguous() for t in tensors):
        return True
    return tensors[0].ndim == 4 and all(
        t.is_contiguous(memory_format=torch.channels_last) for t in tensors
    )


def layer_dtype(values: torch.Tensor) -> torch.dtype:
    """The dtype in which a linear layer computes with such values: autocast's, or their own."""
    kind = values.device.type
    own = values.dtype == torch.float64 or not autocast_enabled(kind)
    return values.dtype if own else torch.get_autocast_dtype(kind)


def autocast_enabled(kind: str) -> bool:
    """Whether autocast is on for a type of device; False where there is none."""
    return kind in AUTOCAST and torch.is_autocast_enabled(kind)


def check_state(x: torch.Tensor) -> None:
    """Raises ValueError unless x is a batch of float32 or float64."""
    if x.dtype not in STATE_DTYPES or x.ndim < 1:
        raise ValueError(f"x is {_described(x)}; it must be (batch, ...) float32 or float64")


def check_network(name: str, F: torch.Tensor, x: torch.Tensor) -> None:
    """Raises ValueError unless F is floating and of x's shape."""
    if F.shape != x.shape or not F.is_floating_point():
        shape = tuple(x.shape)
        raise ValueError(f"{name} is {_described(F)}; it must be floating, of x's shape {shape}")


def check_factors(x: torch.Tensor, **factors: torch.Tensor) -> None:
    """Raises ValueError unless every factor is (batch,) in x's dtype."""
    for name, factor in factors.items():
        if factor.dtype != x.dtype or factor.shape != x.shape[:1]:
            raise ValueError(
                f"{name} is {_described(factor)}; it must be {x.dtype} of shape ({x.shape[0]},)"
            )


def check_active(x: torch.Tensor, active: torch.Tensor | None) -> None:
    """Raises ValueError unless active is None or (batch,) bool."""
    if active is not None and (active.dtype != torch.bool or active.shape != x.shape[:1]):
        raise ValueError(
            f"active is {_described(active)}; it must be torch.bool of shape ({x.shape[0]},)"
        )


def _described(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


_capabilities: dict[int, tuple[int, int]] = {}


@torch.compiler.assume_constant_result
def capability(index: int) -> tuple[int, int]:
    """Compute capability of a CUDA device; torch itself takes microseconds to answer."""
    if index not in _capabilities:
        _capabilities[index] = torch.cuda.get_device_capability(index)
    return _capabilities[index]


def unrecorded(inputs: Sequence[Any]) -> bool:
    """Whether nothing watches a call: no gradient, no compiler, no mode, no tensor subclass."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return False
    tensors = [t for t in inputs if isinstance(t, torch.Tensor)]
    if any(type(t) not in (torch.Tensor, torch.nn.Parameter) for t in tensors):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


class Draw:
    """Random tensors of one example, all from one seed."""

    def __init__(self, seed: int, device: str | torch.device, channels_last: bool = False) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device = device
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def normal(self, *size: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        """(*size) values of standard deviation `scale`; channels-last applies to 4 dimensions."""
        layout = self.layout if len(size) == 4 else torch.contiguous_format
        if str(self.device) == "meta":
            return torch.empty(size, dtype=dtype, device="meta").contiguous(memory_format=layout)
        values = torch.randn(size, generator=self.generator, dtype=torch.float64)
        return (scale * values).to(self.device, dtype).contiguous(memory_format=layout)

    def mask(self, size: int) -> torch.Tensor:
        """(size,) bool, half of them on."""
        return (torch.rand(size, generator=self.generator) < 0.5).to(self.device)
