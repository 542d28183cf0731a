"""`accelerated`: modules of other code bases on our layers, frozen, under the call they had."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .foreign_hosts import RAW_NETWORKS
from .foreign_match import EXACT, Match, called, difference, network, rounding_of, tensors, wrapper
from .foreign_module import Foreign, RawNetwork, call_of, unknown
from .foreign_nets import state_of
from .foreign_wrappers import SCALED_NETWORKS, ScaledNetwork

LOG = logging.getLogger("ctm_fast")
Freeze = Callable[..., Any]


def accelerated(
    model: nn.Module,
    freeze: Freeze,
    tolerances: Mapping[torch.dtype, float],
    *,
    tolerance: float | None,
    release: bool,
    batch: int,
    overrides: Mapping[str, Any],
    **options: Any,
) -> Foreign:
    """A frozen network with the weights, the call and the answers of a module; see `freeze`.

    Args:
        model: the module, or what data parallelism or torch.compile made of it.
        freeze: `inference.freeze`, for our networks.
        tolerances: of the comparison, by dtype.
        tolerance: of the last comparison; None: by its dtype.
        release: empty the original.
        batch: images of the comparison.
        overrides: see `foreign_nets.candidates`.
        options: passed to `freeze`.

    Raises:
        ValueError: for an unknown module, or if none of the networks that it may be gives what it
            gives, naming those that were tried.
    """
    original = unwrapped(model)
    if isinstance(original, Foreign):
        if overrides:
            raise ValueError(f"{sorted(overrides)} mean nothing to a frozen network")
        old = original.unet
        new = freeze(old, tolerance=tolerance, release=release, batch=batch, **options)
        return copy.deepcopy(original, {id(old): new})
    raw = _raw(original)
    kind = next((k for k in RAW_NETWORKS if k.parameters_of_call == call_of(raw)), None)
    scaled = original is not raw
    known = {one.parameters_of_call for one in SCALED_NETWORKS}
    if kind is None or (scaled and call_of(original) not in known):
        raise ValueError(unknown(original))
    with _asked(original), _full_precision():
        state = state_of(raw)
        rounding = max(kind.rounding, rounding_of(original, state, tolerances))
        match = network(raw, kind, state, batch, rounding, overrides)
        host, expected = match.host, match.expected
        result: RawNetwork | ScaledNetwork = host
        checks: list[tuple[RawNetwork | ScaledNetwork, list[Tensor]]] = [(result, expected)]
        if scaled:
            result, expected = wrapper(original, host, batch, rounding)
            checks.append((result, expected))
        own = {value.dtype for value in state.values() if value.is_floating_point()}
        if options.get("dtype", "fast") is None and len(own) == 1:
            options["dtype"] = own.pop()
        del state
        if release:
            _emptied(original)
        host.net = freeze(host.net, tolerance=tolerance, release=release, batch=batch, **options)
        chosen = host.net.input_conv.weight.dtype
        allowed = tolerances[chosen] + match.error if tolerance is None else tolerance
        result.move(host.device)
        for ours, answers in checks:
            calls = ours.calls(batch)
            asked = calls if isinstance(ours, ScaledNetwork) else None
            error = difference(tensors(called(ours, calls)), answers, asked)
            if not error <= allowed:
                raise ValueError(
                    f"the frozen {ours.host_class} differs from the original by {error:.2g} of its "
                    f"output (root mean square), more than the tolerance {allowed:.2g}; choose "
                    "another dtype, or a larger tolerance"
                )
    result.notes = _notes(original, match)
    LOG.info("took %s for %s", result.host_class, "; ".join(result.notes))
    return result


def unwrapped(module: nn.Module) -> nn.Module:
    """The network in what torch.compile and data parallelism make of it."""
    for name in ("_orig_mod", "module"):
        inside = getattr(module, name, None)
        if isinstance(inside, nn.Module) and len(list(module.children())) == 1:
            return unwrapped(inside)
    return module


def _raw(module: nn.Module) -> nn.Module:
    """The network without scalings: itself, or the `model` in it."""
    inside = getattr(module, "model", None)
    known = call_of(module) in {kind.parameters_of_call for kind in RAW_NETWORKS}
    return inside if isinstance(inside, nn.Module) and not known else module


@contextlib.contextmanager
def _asked(original: nn.Module) -> Iterator[None]:
    """Without gradients, the original in eval mode, then as it was."""
    modes = [(module, module.training) for module in original.modules()]
    try:
        with torch.inference_mode(False), torch.no_grad():
            original.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Without the TF32 of GPUs, in which equal networks differ by 1e-3."""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _emptied(module: nn.Module) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.new_empty(0)


def _notes(original: nn.Module, match: Match) -> tuple[str, ...]:
    config = match.candidate.config
    family = type(config).__name__.removesuffix("Config")
    said = [f"network of the {family} family, {config.img_resolution} pixels"]
    if match.candidate.about:
        said.append(f"{match.candidate.about}: since the outputs are equal then")
    if match.error > EXACT:
        said.append(f"in its own dtype it differs from the original by {match.error:.1g}")
    half = any(getattr(module, "use_fp16", False) is True for module in original.modules())
    if half or getattr(original, "dtype", None) == torch.float16:
        said.append("its own choice of float16 is left out; dtype says what it computes in")
    return tuple(said)
