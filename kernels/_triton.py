"""The only file that imports triton: a stand-in when it is absent, and `launch`.

Kernel files write `from ._triton import tl, triton` and define their kernels unconditionally; the
stand-in lets them be imported without triton, and `why_not` says that they cannot run. A kernel's
launch parameters come from a function of the shape that returns a `Config`; nothing is autotuned,
because tuning inside a graph capture fails and its result changes from run to run.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .arguments import capability

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
"""Whether kernels run in Triton's CPU interpreter. Set before the package is imported."""

ABSENT: str | None = None
"""Why triton is not there, or None if it is."""


class _StandIn:
    """Accepts what the definition of a kernel does to `triton` and `tl`; nothing of it runs."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getitem__(self, index: Any) -> Any:
        raise RuntimeError(f"triton is not installed: {ABSENT}")


try:
    import triton
    import triton.language as tl
except ImportError as error:
    ABSENT = f"triton cannot be imported ({error})"
    INTERPRETED = False
    triton = tl = _StandIn()


def why_not(tensors: Sequence[torch.Tensor]) -> str | None:
    """Reason why no Triton kernel can run on these tensors, or None."""
    if ABSENT is not None:
        return ABSENT
    if INTERPRETED:
        kinds = sorted({t.device.type for t in tensors})
        return None if kinds == ["cpu"] else f"the interpreter needs CPU tensors, not {kinds}"
    if not tensors or not all(t.is_cuda for t in tensors):
        kinds = sorted({t.device.type for t in tensors})
        return f"triton needs CUDA tensors, not {kinds} (TRITON_INTERPRET=1 runs CPU tensors)"
    index = tensors[0].get_device()
    if any(t.get_device() != index for t in tensors):
        return "the tensors lie on different devices"
    if torch.version.hip is None and capability(index) < (8, 0):
        return "triton kernels need compute capability 8.0 or later"
    return None


@dataclass(frozen=True)
class Config:
    """How a kernel is compiled: what its `tl.constexpr` parameters are, and the launch options."""

    constants: tuple[tuple[str, Any], ...]  # (name, value), in the order of the kernel's parameters
    num_warps: int = 4  # per program
    num_stages: int = 1  # of software pipelining

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.constants, self.num_warps, self.num_stages)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined]


def config(*, num_warps: int = 4, num_stages: int = 1, **constants: Any) -> Config:
    """A `Config` from keywords, given in the order of the kernel's parameters."""
    return Config(tuple(constants.items()), num_warps, num_stages)


@dataclass(frozen=True)
class Launch:
    """One launch, as `recorded` keeps it."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    config: Config


_recording: list[Launch] | None = None
_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Context in which launches are only written down, for compilation without a GPU."""
    global _recording
    before, _recording = _recording, []
    try:
        yield _recording
    finally:
        _recording = before


def launch(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], config: Config) -> None:
    """Runs `kernel` on the current stream of the device of its tensors.

    The compiled kernel is looked up by dtypes, alignment and configuration in one dictionary,
    which takes a fraction of the time of triton's own launcher, and is never released, so that a
    captured graph can hold on to it.

    Args:
        kernel: a function decorated by `triton.jit`.
        grid: one to three numbers of programs, each at least 1.
        args: its parameters without the `tl.constexpr` ones, which must be the last.
        config: the rest.
    """
    if _recording is not None:
        _recording.append(Launch(kernel, grid, args, config))
        return
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if INTERPRETED:
        kernel[grid](*args, **dict(config.constants), **options)
        return
    device = args[0].get_device()
    if device != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(kernel, grid, args, config)
        return
    key = (kernel, config, device, *_kinds(args))
    found = _compiled.get(key)
    # Profilers hook into triton's launcher.
    if found is None or triton.knobs.runtime.launch_enter_hook.calls:
        compiled = kernel[grid](*args, **dict(config.constants), **options)
        _compiled[key] = compiled, tuple(value for _, value in config.constants)
        return
    compiled, constants = found
    x, y, z = (*grid, 1, 1)[:3]
    stream = triton.runtime.driver.active.get_current_stream(device)
    compiled.run(
        *(x, y, z, stream, compiled.function, compiled.packed_metadata, None, None, None),
        *args,
        *constants,
    )


def _kinds(args: tuple[Any, ...]) -> list[Any]:
    """What of the arguments triton compiles for. One loop: this is most of the time of a launch."""
    kinds: list[Any] = []
    for arg in args:
        if arg is None:
            kinds.append(None)
        elif isinstance(arg, torch.Tensor):
            kinds.append((arg.dtype,) if arg.data_ptr() & 15 else arg.dtype)
        elif type(arg) is int:
            kinds.append(1 if arg == 1 else (arg & 15 == 0, -(2**31) <= arg < 2**31))
        else:
            kinds.append(type(arg))
    return kinds
