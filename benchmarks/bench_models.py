"""Times of one call of a network: as published, eager, compiled, and ours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctm_fast.denoiser import Denoiser
from ctm_fast.inference.freeze import freeze

from . import networks
from .arms import COMPILED, Arm, Named, Ready, cast, compiled, ours, plainly, pool, selected
from .contest import Case, contest
from .flops import flops
from .official_net import OfficialNet
from .outcome import OFFICIAL, Outcome
from .peer_networks import network_arms
from .peers import recognise


@dataclass(frozen=True)
class Settings:
    """What `measure` measures."""

    networks: tuple[str, ...] = ("ddpmpp-cifar10", "ncsnpp-cifar10", "adm-imagenet64")
    batches: tuple[int, ...] = (1, 8)
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    rounds: int = 9
    arms: tuple[str, ...] = ()  # only these; all if empty
    compiled: bool = True
    peers: tuple[Path, ...] = ()


def measure(settings: Settings) -> Iterator[list[Outcome]]:
    """Outcomes of one network and batch after another.

    Raises:
        ValueError: for an unknown network, or a peer that is not recognised.
    """
    clones = [recognise(path) for path in settings.peers]
    for name in settings.networks:
        net = networks.network(name)
        for batch in settings.batches:
            case = Case(
                "models",
                name,
                batch,
                settings.dtype,
                settings.device,
                flops=flops(net, batch),
            )
            arms = [*_arms(case, net), *network_arms(clones, case, net)]
            arms = selected(arms, settings.arms, settings.compiled)
            yield contest(case, arms, exact(case, net), settings.rounds)


def exact(case: Case, net: Any) -> Callable[[], Named]:
    """What the network answers in float32 by the references, or in float64 if that is the dtype."""
    dtype = torch.promote_types(case.dtype, torch.float32)

    def answer() -> Named:
        judge = copy.deepcopy(net).to(case.device, dtype)
        x, *others = on(case, networks.inputs(net, case.batch))
        with torch.no_grad():
            return {"output": plainly(judge)(x.to(case.dtype).to(dtype), *others)}

    return answer


def on(case: Case, inputs: networks.Inputs) -> list[Any]:
    """The inputs on the device of a case."""
    return [None if t is None else t.to(case.device) for t in inputs]


def ready(case: Case, net: Any, call: Callable[..., Any], note: str = "") -> Ready:
    """An arm that calls `call` like a network of ours, x being in the dtype of the arm."""
    x, *others = on(case, networks.inputs(net, case.batch))
    x = x.to(case.dtype).contiguous(memory_format=torch.channels_last)

    def work() -> Any:
        with torch.inference_mode():
            return call(x, *others)

    return Ready(work, lambda: {"output": work()}, note)


def _arms(case: Case, net: Any) -> Iterator[Arm]:
    """The arms of this package and of plain PyTorch."""

    def official(dtype: torch.dtype) -> Callable[[], Ready]:
        return lambda: ready(case, net, OfficialNet(net, dtype).to(case.device))

    def eager() -> Ready:
        return ready(case, net, plainly(cast(copy.deepcopy(net), case.dtype, case.device)))

    def compiling(mode: str) -> Callable[[], Ready]:
        def build() -> Ready:
            plain = cast(copy.deepcopy(net), case.dtype, case.device)
            return ready(case, net, compiled(plain, mode, frozen=True, device=case.device))

        return build

    def frozen() -> Ready:
        model = freeze(networks.denoiser(net), case.dtype, case.device, batch=case.batch)
        return ready(case, net, _pooled(model, case.device))

    yield Arm("official", official(case.dtype), OFFICIAL)
    if case.dtype != torch.float32:
        yield Arm("official-fp32", official(torch.float32), OFFICIAL, torch.float32)
    yield Arm("eager", eager)
    for name, mode in COMPILED.items():
        yield Arm(name, compiling(mode))
    yield ours(frozen)


def _pooled(model: Denoiser, device: str) -> Callable[..., Any]:
    graphs = pool(device)
    if graphs is None:
        return model.net
    return lambda *inputs: graphs.run("net", model.net, *inputs)
